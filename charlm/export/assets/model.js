// A model that writes texts: network, tokenizer and sampling together.

export class Model {
  /** Take a model as charlm exports it. */
  constructor(description) {
    this.about = description.about;
    this.network = new Network(description);
    this.tokenizer = new Tokenizer(description.tokenizer);
    this.writesRecords = description.records; // Texts end with <EOS>.
    this.isBackward = description.backward; // Texts are read and written from their end.
  }

  /**
   * Read a token: return {logits, state}, the logits of the token that follows and the state after
   * it. Without a state the token is the first one; a text begins after the token 0, <EOS>.
   */
  step(token, state = this.network.initialState()) {
    return this.network.step(token, state);
  }

  /** Return a prompt as the model reads it; see `Tokenizer.readPrompt`. */
  readPrompt(prompt) {
    return this.tokenizer.readPrompt(prompt, this.isBackward);
  }

  /**
   * Write a text, one token at a time: yield {text, tokens}, the text so far and its number of new
   * tokens. While the prompt is read, tokens is 0. In records mode the text ends by itself.
   *
   * Options: prompt, seed, number (of the text among those of the seed), length (most new tokens),
   * temperature, topK, topP, minP. The last four can be changed while the text is written.
   */
  *write(options) {
    const { prompt = "", seed = 1, number = 0, length = 500 } = options;
    const { ids, pending } = this.readPrompt(prompt);
    const random = randomNumbers(seed, number);
    const text = this.isBackward
      ? new BackwardText(this.tokenizer, ids)
      : new ForwardText(this.tokenizer, ids, prompt, pending);
    const unread = [EOS, ...(this.isBackward ? ids.reverse() : ids)];
    let token = unread.pop();
    let state = this.network.initialState();
    for (const id of unread) {
      state = this.network.read(id, state);
      yield { text: prompt, tokens: 0 };
    }
    for (let tokens = 1; tokens <= length; tokens++) {
      const step = this.network.step(token, state);
      state = step.state;
      const beginsWithSpace = (id) => this.tokenizer.tokenBytes[id][0] === SPACE_BYTE;
      const allows = pending && tokens === 1 ? beginsWithSpace : null;
      token = drawToken(step.logits, random(), options, allows);
      const ends = token === EOS && this.writesRecords;
      if (!ends) text.add(token);
      if (ends || tokens === length) text.finish();
      yield { text: text.text, tokens };
      if (ends) return;
    }
  }

  /** Return a text; the options are those of `write`. */
  sample(options = {}) {
    let written = options.prompt ?? "";
    for (const { text } of this.write(options)) written = text;
    return written;
  }
}

const SPACE_BYTE = 32;

/** The text of a prompt and the tokens after it. */
class ForwardText {
  constructor(tokenizer, ids, prompt, pending) {
    this.decoder = new Decoder(tokenizer);
    for (const id of ids) this.decoder.feed(id);
    this.text = prompt;
    // Between words that are separated by spaces, the prompt may have the space already.
    const hasSpace = tokenizer.description.whitespace && prompt.endsWith(" ");
    this.pending = hasSpace ? " " : pending;
  }

  add(token) {
    const added = this.decoder.feed(token);
    this.text += added.startsWith(this.pending) ? added.slice(this.pending.length) : added;
    this.pending = "";
  }

  finish() {
    this.text += this.decoder.flush();
  }
}

/** The text of a prompt and the tokens before it, which are written from the last to the first. */
class BackwardText {
  constructor(tokenizer, ids) {
    this.tokenizer = tokenizer;
    this.ids = [...ids];
  }

  get text() {
    return this.tokenizer.decode(this.ids);
  }

  add(token) {
    this.ids.unshift(token);
  }

  finish() {}
}
