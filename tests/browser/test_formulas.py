"""Formulas are drawn, prices and code are not, and hostile ones stay in their place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.app import App

Open = Callable[..., App]
VENDOR = Path(__file__).parents[2] / "src" / "tramontane" / "server" / "static" / "vendor" / "katex"

SHOW = """
    async (text) => {
      const { MarkdownView } = await import("./js/markdown_view.js");
      const view = new MarkdownView();
      view.update(text);
      document.querySelector(".messages").replaceChildren(view.element);
    }"""


def show(app: App, text: str) -> None:
    app.page.evaluate(SHOW, text)


def sources(app: App) -> list[str]:
    """The TeX of every formula, as its MathML tells; drawn ones alone."""
    return app.page.locator(".formula .katex annotation").all_text_contents()


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("Energy is $E = mc^2$.", ["E = mc^2"]),
        (r"So \( a^2 + b^2 \) is", ["a^2 + b^2"]),
        (r"\[ x_1 * y * z \]", ["x_1 * y * z"]),
        ("$$x$$", ["x"]),
        ("Text:\n$$\n\\frac{1}{2}\n- b\n$$\nmore", ["\\frac{1}{2}\n- b"]),
        ("Text:\n\\[\na < b\n\\]", ["a < b"]),
        ("It is $$x + 1$$ in a sentence", ["x + 1"]),
        ("- first $a_1$ and $b_2$\n- $$\n  c\n  $$", ["a_1", "b_2", "c"]),
        ("| a | b |\n|---|---|\n| $x$ | 5 |", ["x"]),
        ("**bold $x$** and $5$", ["x", "5"]),
        (r"$2 \text{ km}$", [r"2 \text{ km}"]),
    ],
)
def test_formulas_are_drawn(open_app: Open, text: str, formulas: list[str]) -> None:
    app = open_app()
    show(app, text)
    expect(app.page.locator(".formula .katex")).to_have_count(len(formulas))
    assert sources(app) == formulas
    expect(app.page.locator(".prose")).not_to_contain_text("$")


def test_prices_code_and_escapes_are_no_formulas(open_app: Open) -> None:
    app = open_app()
    texts = [
        "It costs $5 and $6.", "From $5-$6, or US$7 and US$8", "between $5 and 10$", "$ npm install $ x", "`$a$`",
        "```\n$$x$$ \\(a\\)\n```", "\\$a\\$", "$HOME and $PATH", "a$b$c", "$5", "$$", "$ $", "$$$$", "price: 5$ or 6$",
        "$$\nnever closed", "\\(never closed", "$a\nb$",
    ]  # fmt: skip
    for text in texts:
        show(app, text)
        assert app.page.locator(".formula").count() == 0, text
        if "`" not in text:
            shown = app.page.locator(".prose").inner_text()
            assert "".join(shown.split()) == "".join(text.replace("\\$", "$").replace("\\(", "(").split()), text
    assert app.page.evaluate("globalThis.katex === undefined")  # nothing was fetched for them


def test_a_formula_grows_with_its_answer(open_app: Open) -> None:
    app = open_app()
    text = "Begin.\n\nThen $a$ and\n\n$$\na\n- b\n+ c\n\n= d\n$$\n\nEnd of $b$."
    assert app.page.evaluate(
        """async (text) => {
          const { MarkdownView } = await import("./js/markdown_view.js");
          const [grown, whole] = [new MarkdownView(), new MarkdownView()];
          whole.update(text);
          for (let end = 1; end <= text.length; end += 1) grown.update(text.slice(0, end));
          document.querySelector(".messages").replaceChildren(grown.element, whole.element);
          await new Promise((resolve) => setTimeout(resolve, 1000));
          return grown.element.innerHTML === whole.element.innerHTML;
        }""",
        text,
    )
    expect(app.page.locator(".formula .katex")).to_have_count(6)


HOSTILE = [
    r"\href{javascript:alert(1)}{x}",
    r"\url{javascript:alert(1)}",
    r"\includegraphics{https://evil.example/x.png}",
    r"\htmlStyle{position:fixed;inset:0}{x}",
    r"\htmlClass{composer}{x}",
    r"\def\a{\a\a}\a",
    r"\rule{100000em}{100000em}",
    r"\kern-9000em\rule{20em}{20em}",
    r"\raisebox{9000em}{x}",
    r"\frac{" * 300 + "x",
    r"\sqrt{" * 240 + "x" + "}" * 240,
    r"\sqrt" * 300 + "x",
    "x^{" * 400 + "}" * 400,
    r"\left(" * 150 + r"\right)" * 150,
    r"\begin{matrix}" * 50 + r"\end{matrix}" * 50,
    r"\unknown{x}",
    "{" * 1000,
    r"<img src=x onerror=alert(1)>",
    r"\text{<script>alert(1)</script>}",
]


def test_hostile_formulas_do_nothing(open_app: Open) -> None:
    app = open_app()
    show(app, "\n\n".join(f"$${text}$$" for text in HOSTILE) + "\n\nlast $x$")
    expect(app.page.locator(".prose > p").last.locator(".katex")).to_have_count(1)
    prose = app.page.locator(".prose")
    expect(prose.locator("a, img, script, iframe, .composer")).to_have_count(0)
    expect(prose.locator("code", has_text="unknown")).to_have_count(1)  # what is no TeX is shown as it is
    assert app.page.evaluate(
        """() => [...document.querySelectorAll(".prose *")].every((node) =>
          !["fixed", "sticky"].includes(getComputedStyle(node).position))"""
    )
    assert app.page.evaluate(
        "document.querySelector('.scroller').scrollWidth <= document.querySelector('.scroller').clientWidth"
    )
    app.message.click()  # nothing lies over the page
    app.send("say: still here")


def test_formulas_stay_on_a_phone_in_both_themes(open_app: Open) -> None:
    app = open_app(width=360, height=740, color_scheme="dark")
    app.send("say: Wide:\n\n$$" + " + ".join(f"x_{{{i}}}" for i in range(40)) + "$$\n\nand $y$")
    expect(app.page.locator(".formula .katex")).to_have_count(2)
    assert app.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(app.page.get_by_role("group", name="Formula")).to_have_attribute("tabindex", "0")


def test_katex_is_whole_and_its_licence_lies_beside_it() -> None:
    assert "Khan Academy" in (VENDOR / "LICENSE").read_text(encoding="utf-8")
    style = (VENDOR / "katex.min.css").read_text(encoding="utf-8")
    fonts = {path.name for path in (VENDOR / "fonts").iterdir()}
    assert len(fonts) == 20
    assert all(f"fonts/{name}" in style for name in fonts)
    assert style.count("url(") == style.count("url(fonts/") == style.count(".woff2)")
