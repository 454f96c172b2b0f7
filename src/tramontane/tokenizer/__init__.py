"""Text and token ids: vocabularies of every Mistral and Llama checkpoint, chat formats, incremental detokenizing.

Native engines (tiktoken, sentencepiece, tokenizers) are imported when a vocabulary is opened, not with this package.
"""

from tramontane.tokenizer.absent import AbsentTokenizer
from tramontane.tokenizer.base import Tokenizer
from tramontane.tokenizer.call_text import ToolCallDelta
from tramontane.tokenizer.chat import ChatFormat, Turn
from tramontane.tokenizer.detokenizer import Detokenizer, StopStrings
from tramontane.tokenizer.gguf import gguf_tokenizer
from tramontane.tokenizer.load import TOKENIZER_FILES, has_tokenizer, load_tokenizer
from tramontane.tokenizer.messages import AssistantMessage, ToolCall, ToolCallIds
from tramontane.tokenizer.parse import AnswerDelta, AnswerParser, joined_delta, joined_message

__all__ = [
    "TOKENIZER_FILES",
    "AbsentTokenizer",
    "AnswerDelta",
    "AnswerParser",
    "AssistantMessage",
    "ChatFormat",
    "Detokenizer",
    "StopStrings",
    "Tokenizer",
    "ToolCall",
    "ToolCallDelta",
    "ToolCallIds",
    "Turn",
    "gguf_tokenizer",
    "has_tokenizer",
    "joined_delta",
    "joined_message",
    "load_tokenizer",
]
