/* The state of the page, which its address keeps: in the fragment, which is never sent. */

const MAX_ADDRESS = 32000, MAX_TEXT = 20000;
export const MAX_BRANCHES = 20, MAX_KEPT = 200;
export const DEFAULTS = { t: .8, p: 1, m: 0, s: 1, c: 0, r: '' };
export const TABS = ['write', 'score', 'memory', 'records'];
export const RANGES = { t: [0, 2], p: [.05, 1], m: [0, .5], s: [0, 2 ** 31 - 1], c: [0, MAX_TEXT] };

/* tab: view. run: name. set: settings. br: branches, each a text t that leaves another one at f.
   cur: branch that is shown. sents, rank: Score. ms: Memory. kept, only: Records. */
export const S = {
  tab: 'write', run: '', set: { ...DEFAULTS }, br: [{ t: '', f: 0 }], cur: 0,
  sents: null, rank: 'm', ms: null, kept: [], only: false,
};
export const text = () => S.br[S.cur].t;
export const limits = { characters: MAX_TEXT, memory_characters: 2000, memory_tokens: 128 };

let timer = 0, onTooLong = () => {};
export const whenTooLong = handler => { onTooLong = handler; };
export function save() {
  clearTimeout(timer);
  timer = setTimeout(write, 250);
}
function write() {
  let kept = '#' + encodeURIComponent(JSON.stringify(S));
  if (kept.length > MAX_ADDRESS) kept = '#' + encodeURIComponent(JSON.stringify({ ...S, br: [S.br[S.cur]], cur: 0 }));
  const fits = kept.length <= MAX_ADDRESS;
  history.replaceState(null, '', fits ? kept : location.pathname);
  onTooLong(!fits);
}

const isText = (value, most) => typeof value === 'string' && value.length <= most;
/* Take over what the address holds. Anybody can have made it: every value is checked. */
export function restore() {
  let found;
  try { found = JSON.parse(decodeURIComponent(location.hash.slice(1))); } catch { return; }
  if (typeof found !== 'object' || found === null) return;
  if (TABS.includes(found.tab)) S.tab = found.tab;
  if (isText(found.run, 500)) S.run = found.run;
  if (['m', 'sum'].includes(found.rank)) S.rank = found.rank;
  if (isText(found.sents, MAX_TEXT)) S.sents = found.sents;
  if (isText(found.ms, MAX_TEXT)) S.ms = found.ms;
  S.only = found.only === true;
  if (Array.isArray(found.kept)) S.kept = found.kept.filter(name => isText(name, 2000)).slice(0, MAX_KEPT);
  restoreSettings(found.set);
  restoreBranches(found);
}
function restoreSettings(set) {
  for (const [name, [low, high]] of Object.entries(RANGES)) {
    const value = set?.[name];
    if (Number.isFinite(value) && value >= low && value <= high) S.set[name] = value;
  }
  if (isText(set?.r, 1000)) S.set.r = set.r;
}
function restoreBranches(found) {
  if (!Array.isArray(found.br)) return;
  const branches = found.br.filter(branch => isText(branch?.t, MAX_TEXT)).slice(0, MAX_BRANCHES);
  if (!branches.length) return;
  S.br = branches.map(({ t, f }) => ({ t, f: Number.isInteger(f) && f > 0 && f <= t.length ? f : 0 }));
  S.cur = Number.isInteger(found.cur) && found.cur >= 0 && found.cur < S.br.length ? found.cur : 0;
}

/* The runs of the server. */
export const runs = [];
export const run = () => runs.find(one => one.name === S.run) ?? runs[0];
export const unit = () => ({ char: 'character', byte: 'byte' })[run()?.level] ?? 'token';

/* The settings as fields of a request. */
export function filters() {
  const { t, p, m } = S.set;
  return { temperature: t, ...(p < 1 && { top_p: p }), ...(m > 0 && { min_p: m }) };
}
