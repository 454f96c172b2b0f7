"""Documents: files and pages into text, summaries of any length, answers with their passages.

Foreign formats are parsed in a child process under limits (`sandbox.py`): a hostile file ends with one line.
"""

from tramontane.documents.answer import Answer, answer_question
from tramontane.documents.document import Document, parse_document, read_document
from tramontane.documents.ranking import Passage, rank
from tramontane.documents.split import split_by_tokens
from tramontane.documents.summary import Summary, summarize

__all__ = [
    "Answer",
    "Document",
    "Passage",
    "Summary",
    "answer_question",
    "parse_document",
    "rank",
    "read_document",
    "split_by_tokens",
    "summarize",
]
