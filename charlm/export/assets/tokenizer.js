// Text to token ids and back, at the level of characters, bytes, words or subwords: the same ids as
// charlm/data/tokenizer.py.

export const EOS = 0;
export const UNKNOWN = 1;

const LETTER = String.raw`[\p{L}\p{M}\p{N}_]`;
const SPACE = String.raw`[^\P{White_Space}\n]`;
// JavaScript's \s has other characters than Unicode's White_Space.
const WORD_PATTERNS = [
  String.raw` ?${LETTER}+(?:['\u2019]${LETTER}+)*`, // A word with one space before it.
  String.raw` ?[^\p{White_Space}\p{L}\p{M}\p{N}_]`, // A punctuation mark with one space before it.
  String.raw`\n`,
  String.raw`${SPACE}+(?!\P{White_Space})`, // Other spaces; the last one belongs to the next word.
  SPACE,
];
const WORDS = new RegExp(WORD_PATTERNS.join("|"), "gu");
const NOT_SPACES = /\P{White_Space}+/gu;

const toUtf8 = (text) => new TextEncoder().encode(text);

// A text of one character per byte, and its bytes.
const letterOf = (byte) => String.fromCharCode(byte);
const bytesOf = (text) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));

/**
 * A tokenizer as charlm exports it.
 *
 * level: char, byte, word or bpe. normalization: none, nfc, nfd, nfkc or nfkd; lowercase: true or
 * false. whitespace: whether spaces separate words and each line ends with <EOS>. eos: the text of
 * <EOS>. tokens: text of each id from 2 on, at level bpe with one character per byte, and absent at
 * level byte. merges: at level bpe, ids of the two parts of each merge, in order.
 */
export class Tokenizer {
  constructor(description) {
    this.description = description;
    const { level } = description;
    const tokens = description.tokens ?? Array.from({ length: 256 }, (_, byte) => letterOf(byte));
    const toBytes = level === "byte" || level === "bpe" ? bytesOf : toUtf8;
    this.tokenBytes = [new Uint8Array(0), bytesOf("<UNK>"), ...tokens.map(toBytes)];
    this.ids = new Map(tokens.map((token, k) => [token, k + 2]));
    if (level === "bpe") this.readMerges(tokens, description.merges);
    // Where tokens begin with spaces, a space at the end of a prompt belongs to the next token.
    this.joinsSpaces =
      (level === "word" || level === "bpe") &&
      !description.whitespace &&
      tokens.some((token) => token.startsWith(" "));
  }

  /** Return the ids of a text. */
  encode(text) {
    return this.words(text).flatMap((word) => this.encodeWord(word));
  }

  /** Return the distinct characters or words of a text that have no id. */
  findUnknown(text) {
    const { level } = this.description;
    if (level === "byte" || level === "bpe") return [];
    const unknown = this.words(text).filter((word) => this.encodeWord(word)[0] === UNKNOWN);
    const withoutSpaces = (word) => word.replace(/^ +| +$/g, "") || word;
    return [...new Set(level === "word" ? unknown.map(withoutSpaces) : unknown)];
  }

  /**
   * Return a prompt as the model reads it: its ids, its unknown characters or words, and the space
   * at its end that the next token begins with, or an empty text.
   */
  readPrompt(prompt, isBackward = false) {
    const pending = this.joinsSpaces && !isBackward && prompt.endsWith(" ") ? " " : "";
    let text = prompt.slice(0, prompt.length - pending.length);
    if (this.findUnknown("\r").length) text = text.replaceAll("\r\n", "\n");
    return { ids: this.encode(text), unknown: this.findUnknown(text), pending };
  }

  decode(ids) {
    const decoder = new Decoder(this);
    return [...ids].map((id) => decoder.feed(id)).join("") + decoder.flush();
  }

  normalize(text) {
    const { normalization, lowercase } = this.description;
    if (normalization !== "none") text = text.normalize(normalization.toUpperCase());
    // Character by character: a sigma at the end of a word is no other letter.
    if (lowercase) text = Array.from(text, (character) => character.toLowerCase()).join("");
    return text;
  }

  words(text) {
    const { level, whitespace } = this.description;
    text = text.toWellFormed?.() ?? text;
    if (level === "byte") return Array.from(toUtf8(text), letterOf);
    text = this.normalize(text);
    if (level === "char") return Array.from(text);
    if (!whitespace) return text.match(WORDS) ?? [];
    const words = text.replaceAll("\n", " <EOS> ").match(NOT_SPACES) ?? [];
    // Corpora such as the Penn Treebank write unknown words as <unk>.
    return words.map((word) => (word === "<unk>" ? "<UNK>" : word));
  }

  encodeWord(word) {
    if (this.description.level === "bpe") return this.merge(toUtf8(word));
    if (this.description.whitespace && word === "<EOS>") return [EOS];
    return [this.ids.get(word) ?? UNKNOWN];
  }

  readMerges(tokens, merges) {
    this.merges = new Map();
    for (let k = 0; k < merges.length; k += 2) {
      const [left, right] = [merges[k], merges[k + 1]];
      const merged = this.ids.get(tokens[left - 2] + tokens[right - 2]);
      this.merges.set(`${left},${right}`, { rank: k, merged });
    }
  }

  /** Return the subwords of a word: the merge that was learned first comes first. */
  merge(bytes) {
    const ids = Array.from(bytes, (byte) => this.ids.get(letterOf(byte)));
    for (;;) {
      let best = null;
      for (let k = 0; k + 1 < ids.length; k++) {
        const merge = this.merges.get(`${ids[k]},${ids[k + 1]}`);
        if (merge && (!best || merge.rank < best.rank)) best = { ...merge, k };
      }
      if (!best) return ids;
      ids.splice(best.k, 2, best.merged);
    }
  }
}

/** Ids to text, one id at a time. An incomplete character of UTF-8 is held back. */
export class Decoder {
  constructor(tokenizer) {
    this.tokenizer = tokenizer;
    this.utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
    this.startsLine = true;
  }

  /** Return the text that a token adds. */
  feed(id) {
    const { whitespace, eos } = this.tokenizer.description;
    if (id === EOS) {
      this.startsLine = true;
      return this.flush() + eos;
    }
    const space = whitespace && !this.startsLine ? " " : "";
    this.startsLine = false;
    return space + this.utf8.decode(this.tokenizer.tokenBytes[id], { stream: true });
  }

  /** Return the incomplete character at the end of the text, as U+FFFD. */
  flush() {
    return this.utf8.decode();
  }
}
