// Colours for code: one scanner driven by a table of languages. It knows words, strings, comments and numbers, not
// grammars: enough to read by, and it cannot get stuck on hostile text.

const MAX_CHARS = 60_000; // longer code is shown plain

const words = (text) => new Set(text.split(" "));
const C_LIKE = { line: ["//"], block: [["/*", "*/"]], quotes: ['"', "'"] };
const C_WORDS =
  "break case char const continue default do double else enum extern float for goto if inline int long register return short signed sizeof static struct switch typedef union unsigned void volatile while bool true false NULL nullptr auto";

const LANGUAGES = {
  python: {
    line: ["#"],
    quotes: ['"""', "'''", '"', "'"],
    multiline: ['"""', "'''"],
    decorator: "@",
    keywords: words(
      "False None True and as assert async await break class continue def del elif else except finally for from global if import in is lambda match case nonlocal not or pass raise return try while with yield self",
    ),
  },
  javascript: {
    ...C_LIKE,
    quotes: ['"', "'", "`"],
    multiline: ["`"],
    keywords: words(
      "abstract any as async await boolean break case catch class const continue declare default delete do else enum export extends false finally for from function get if implements import in instanceof interface keyof let namespace never new null number of private protected public readonly return set static string super switch this throw true try type typeof undefined unknown var void while yield",
    ),
  },
  c: {
    ...C_LIKE,
    preprocessor: "#",
    keywords: words(
      `${C_WORDS} class namespace template typename public private protected virtual override new delete using this throw try catch constexpr noexcept std friend operator final`,
    ),
  },
  java: {
    ...C_LIKE,
    decorator: "@",
    keywords: words(
      "abstract boolean break byte case catch char class const continue default do double else enum extends final finally float for if implements import instanceof int interface long new null package private protected public record return sealed short static super switch this throw throws true false try var void while yield fun val when object data suspend override internal companion string using namespace async await readonly out ref",
    ),
  },
  go: {
    ...C_LIKE,
    quotes: ['"', "'", "`"],
    multiline: ["`"],
    keywords: words(
      "break case chan const continue default defer else fallthrough for func go goto if import interface map package range return select struct switch type var nil true false error string int bool byte rune any",
    ),
  },
  rust: {
    ...C_LIKE,
    quotes: ['"'],
    keywords: words(
      "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub ref return self Self static struct super trait true type unsafe use where while",
    ),
  },
  bash: {
    line: ["#"],
    quotes: ['"', "'"],
    multiline: ['"', "'"],
    variable: "$",
    keywords: words(
      "if then else elif fi for in do done while until case esac function return local export set unset exit echo cd source sudo read shift trap",
    ),
  },
  sql: {
    line: ["--"],
    block: [["/*", "*/"]],
    quotes: ["'", '"'],
    ignoreCase: true,
    keywords: words(
      "select from where and or not in is null as join left right inner outer full on group by order having limit offset insert into values update set delete create table index view drop alter add primary key foreign references unique default case when then else end distinct union all exists between like with recursive over partition returning",
    ),
  },
  json: { quotes: ['"'], keywords: words("true false null"), property: true },
  yaml: { line: ["#"], quotes: ['"', "'"], keywords: words("true false null yes no"), property: true },
  toml: { line: ["#"], quotes: ['"""', '"', "'"], multiline: ['"""'], keywords: words("true false"), property: true },
  css: {
    block: [["/*", "*/"]],
    quotes: ['"', "'"],
    keywords: words("important media supports import keyframes from to not and"),
    property: true,
    decorator: "@",
  },
  html: { block: [["<!--", "-->"]], quotes: ['"', "'"], keywords: new Set(), tag: true },
};
const ALIASES = {
  py: "python",
  python3: "python",
  js: "javascript",
  jsx: "javascript",
  ts: "javascript",
  tsx: "javascript",
  typescript: "javascript",
  mjs: "javascript",
  "c++": "c",
  cpp: "c",
  cc: "c",
  h: "c",
  hpp: "c",
  cuda: "c",
  "c#": "java",
  cs: "java",
  csharp: "java",
  kotlin: "java",
  swift: "rust",
  rs: "rust",
  golang: "go",
  sh: "bash",
  shell: "bash",
  zsh: "bash",
  console: "bash",
  dockerfile: "bash",
  makefile: "bash",
  sqlite: "sql",
  postgresql: "sql",
  jsonl: "json",
  json5: "json",
  yml: "yaml",
  ini: "toml",
  scss: "css",
  xml: "html",
  svg: "html",
  vue: "html",
  markup: "html",
};

/** [kind or null, text] pairs that joined give `code`. */
export function highlight(code, language) {
  if (language === "diff" || language === "patch") return diffLines(code);
  const rules = LANGUAGES[ALIASES[language] ?? language];
  if (!Object.hasOwn(LANGUAGES, ALIASES[language] ?? language) || code.length > MAX_CHARS) return [[null, code]];
  return scan(code, rules);
}

function diffLines(code) {
  const kinds = { "+": "added", "-": "removed", "@": "keyword" };
  return code.split(/(?<=\n)/).map((line) => [kinds[line[0]] ?? null, line]);
}

function scan(code, rules) {
  const found = [];
  let plain = "";
  const emit = (kind, text) => {
    if (plain) found.push([null, plain]);
    plain = "";
    found.push([kind, text]);
  };
  const word = /[\p{L}_$][\p{L}\p{N}_$]*/uy;
  const number = /(?:0[xob][\da-f_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:e[+-]?\d+)?)/iy;
  for (let i = 0; i < code.length;) {
    const comment = endOfComment(code, i, rules);
    const string = comment ?? endOfString(code, i, rules);
    if (string !== null) {
      const isKey = comment === null && rules.property && /^\s*[:=]/.test(code.slice(string, string + 20));
      emit(comment !== null ? "comment" : isKey ? "property" : "string", code.slice(i, string));
      i = string;
      continue;
    }
    if (rules.tag && code[i] === "<") {
      const tag = match(/<\/?[a-z][\w:-]*/iy, code, i);
      if (tag) {
        emit("keyword", tag);
        i += tag.length;
        continue;
      }
    }
    const mark = [rules.decorator, rules.preprocessor, rules.variable].includes(code[i])
      ? match(/[@#$]\{?[\w.-]+\}?/y, code, i)
      : null;
    if (mark) {
      emit("meta", mark);
      i += mark.length;
      continue;
    }
    const name = match(word, code, i);
    if (name) {
      const kind = wordKind(code, i, name, rules);
      if (kind) emit(kind, name);
      else plain += name;
      i += name.length;
      continue;
    }
    const digits = match(number, code, i);
    if (digits) {
      emit("number", digits);
      i += digits.length;
      continue;
    }
    plain += code[i];
    i += 1;
  }
  if (plain) found.push([null, plain]);
  return found;
}

function match(pattern, code, at) {
  pattern.lastIndex = at;
  return pattern.exec(code)?.[0] ?? null;
}

function wordKind(code, at, name, rules) {
  if (rules.keywords.has(rules.ignoreCase ? name.toLowerCase() : name)) return "keyword";
  const next = code[at + name.length];
  if (next === "(") return "function";
  if (rules.property && /^[ \t]*[:=]/.test(code.slice(at + name.length, at + name.length + 8))) return "property";
  return /^\p{Lu}[\p{L}\p{N}]*\p{Ll}/u.test(name) && !rules.property && !rules.tag ? "type" : null;
}

/** Where the comment that starts at `i` ends; null if none starts. */
function endOfComment(code, i, rules) {
  for (const [open, close] of rules.block ?? []) {
    if (code.startsWith(open, i)) {
      const end = code.indexOf(close, i + open.length);
      return end === -1 ? code.length : end + close.length;
    }
  }
  for (const open of rules.line ?? []) {
    if (code.startsWith(open, i) && (open !== "#" || !/\S/.test(code[i - 1] ?? " "))) {
      const end = code.indexOf("\n", i);
      return end === -1 ? code.length : end;
    }
  }
  return null;
}

function endOfString(code, i, rules) {
  const quote = rules.quotes.find((mark) => code.startsWith(mark, i));
  if (quote === undefined) return null;
  const spansLines = rules.multiline?.includes(quote) ?? false;
  for (let at = i + quote.length; at < code.length; at += 1) {
    if (code[at] === "\\") at += 1;
    else if (code.startsWith(quote, at)) return at + quote.length;
    else if (code[at] === "\n" && !spansLines) return i + quote.length; // a lone apostrophe, not a string
  }
  return code.length;
}
