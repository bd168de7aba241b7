'use strict';
const D = JSON.parse(document.getElementById('data').textContent);
const $ = (selector, node = document) => node.querySelector(selector);
const $$ = (selector, node = document) => [...node.querySelectorAll(selector)];
const SVG = 'http://www.w3.org/2000/svg';

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === 'class') node.className = value; else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}
function svg(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}
for (const node of $$('[data-script]')) node.hidden = false;
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const percent = p => p < 0.001 ? (p > 0 ? '< 0.1 %' : '0 %') : (100 * p).toFixed(p >= 0.0995 ? 0 : 1) + ' %';

/* One behaviour for every figure: pointing, arrow keys and tapping do the same.
   at(event): position under the pointer, or null. show(i, active): draws a position.
   text(i): reads it out. extend(range or null): selects a range, if given.
   across: number of positions in a row of a matrix. */
function slider(node, { count, start, at, show, text, extend, across }) {
  let position = start(), kept = null;
  function draw(i, active) {
    position = clamp(i, 0, count() - 1);
    show(position, active);
    node.setAttribute('aria-valuemax', count());
    node.setAttribute('aria-valuenow', position + 1);
    node.setAttribute('aria-valuetext', text(position));
  }
  node.addEventListener('pointermove', event => {
    if (event.pointerType === 'touch' || kept !== null) return;
    const i = at(event);
    if (i !== null) draw(i, true);
  });
  node.addEventListener('pointerleave', event => {
    if (event.pointerType !== 'touch' && kept === null && document.activeElement !== node) draw(start(), false);
  });
  node.addEventListener('click', event => {
    const i = at(event);
    if (i === null) return;
    kept = kept === i ? null : i;
    draw(i, true);
  });
  node.addEventListener('focus', () => { if (node.matches(':focus-visible')) draw(position, true); });
  node.addEventListener('blur', () => { if (kept === null) draw(start(), false); });
  node.addEventListener('keydown', event => {
    // The browser uses an arrow with these keys: Alt and the left arrow return to the last page.
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const page = Math.max(1, Math.round(count() / 10));
    const down = across ?? -1, passage = node.matches('.text') ? node : $('.text', node);
    const right = passage?.matches(':dir(rtl)') ? -1 : 1;
    const steps = { ArrowLeft: -right, ArrowDown: down, ArrowRight: right, ArrowUp: -down, PageUp: -page, PageDown: page };
    const target = event.key === 'Home' ? 0 : event.key === 'End' ? count() - 1
      : event.key in steps ? position + steps[event.key] : null;
    if (event.key === 'Escape') {
      kept = null;
      if (extend) extend(null);
      draw(start(), true);
    } else if (event.key === 'Enter' || event.key === ' ') {
      kept = kept === null ? position : null;
      event.preventDefault();
    } else if (target !== null) {
      const from = position;
      kept = null;
      draw(target, true);
      if (extend) extend(event.shiftKey ? [from, position] : null);
      event.preventDefault();
    }
  });
  draw(start(), false);
  return { redraw: () => draw(position, true), get position() { return position; } };
}

/* Line charts: the legend above a chart is its read-out. */
function points(path) {
  const places = path.dataset.at?.split(' '), line = [];
  path.getAttribute('d').slice(1).split('L').forEach((pair, i) => {
    line[places ? +places[i] : i] = pair.split(',').map(Number);
  });
  return line;
}
for (const [key, chart] of Object.entries(D.charts)) {
  const figure = $('#f-' + key), legend = $('.legend', figure);
  if (!legend) continue;
  const values = $$('[data-i]', legend).map(node => [node, +node.dataset.i]);
  const plots = $$('.plot', figure);
  for (const plot of plots) {
    const drawings = $$('svg.chart', plot).map(node => ({
      node, layer: $('.hv', node), lines: $$('path.l[data-s]', node).map(path => [path, points(path)]),
    }));
    const shown = () => drawings.find(drawing => drawing.node.getBoundingClientRect().width);
    plot.classList.add('slider');
    for (const [name, value] of Object.entries({
      tabindex: 0, role: 'slider', 'aria-label': $('h3', figure).textContent, 'aria-valuemin': 1,
    })) plot.setAttribute(name, value);
    slider(plot, {
      count: () => chart.head.length,
      start: () => chart.at,
      at(event) {
        const drawing = shown();
        if (!drawing) return null;
        const box = drawing.node.getBoundingClientRect(), view = drawing.node.viewBox.baseVal;
        const x = (event.clientX - box.left) / box.width * view.width;
        let nearest = null, distance = Infinity;
        for (const [, line] of drawing.lines) line.forEach(([px], i) => {
          if (Math.abs(px - x) < distance) { distance = Math.abs(px - x); nearest = i; }
        });
        return nearest;
      },
      show(i, active) {
        for (const node of $$('.at', legend)) node.textContent = chart.head[i];
        for (const [node, k] of values) node.textContent = chart.v[k][i] ?? '–';
        for (const drawing of drawings) {
          drawing.layer.replaceChildren();
          if (!active) continue;
          for (const [path, line] of drawing.lines) {
            if (!line[i] || path.classList.contains('thin')) continue;
            const style = [...path.classList].find(name => /^[sk]\d/.test(name));
            drawing.layer.append(svg('circle', { class: 'm ' + style, r: 4.5, cx: line[i][0], cy: line[i][1] }));
          }
        }
      },
      text: i => chart.head[i] + ': ' + values.map(([node, k]) => chart.v[k][i] ?? '–').join(', '),
    });
  }
}
/* Matrices: the legend shows one cell. */
for (const [key, matrix] of Object.entries(D.matrices)) {
  const figure = $('#f-' + key), plot = $('.plot', figure), across = matrix.columns.length;
  const part = name => $(`[data-part="${name}"]`, figure);
  const drawings = $$('svg.chart', plot).map(node => ({
    node, layer: $('.hv', node), grid: node.dataset.grid.split(' ').map(Number),
  }));
  const place = i => [Math.floor(i / across), i % across];
  const say = i => { const [row, column] = place(i); return matrix.cells[row][column]; };
  plot.classList.add('slider');
  for (const [name, value] of Object.entries({
    tabindex: 0, role: 'slider', 'aria-label': $('h3', figure).textContent, 'aria-valuemin': 1,
  })) plot.setAttribute(name, value);
  slider(plot, {
    across,
    count: () => matrix.rows.length * across,
    start: () => matrix.at,
    at(event) {
      const drawing = drawings.find(({ node }) => node.getBoundingClientRect().width);
      if (!drawing) return null;
      const box = drawing.node.getBoundingClientRect(), scale = drawing.node.viewBox.baseVal.width / box.width;
      const [left, top, width, height] = drawing.grid;
      const column = Math.floor(((event.clientX - box.left) * scale - left) / width);
      const row = Math.floor(((event.clientY - box.top) * scale - top) / height);
      const inside = row >= 0 && row < matrix.rows.length && column >= 0 && column < across;
      return inside ? row * across + column : null;
    },
    show(i) {
      const [row, column] = place(i);
      part('row').textContent = matrix.rows[row];
      part('column').textContent = matrix.columns[column];
      part('cell').textContent = say(i);
      for (const { layer, grid: [left, top, width, height] } of drawings) {
        layer.replaceChildren(svg('rect', {
          class: 'spot', x: left + column * width, y: top + row * height, width, height,
        }));
      }
    },
    text: i => { const [row, column] = place(i); return `${matrix.rows[row]}, ${matrix.columns[column]}: ${say(i)}`; },
  });
}

/* Passages. */
const SURPRISAL = [0, .5, 1, 2, 3, 4, 5, 7], MEMORY = [0, 50, 100, 200, 350, 500, 700, 900];
const bin = (value, edges) => { let k = 0; while (k < edges.length - 1 && value >= edges[k + 1]) k++; return k; };
const chosenRun = key => +($(`input[name="r-${key}"]:checked`)?.value ?? 0);
const tokenAt = list => event => {
  const i = list().indexOf(event.target.closest?.('i'));
  return i < 0 ? null : i;
};
function fill(node, texts) {
  node.replaceChildren(...texts.flatMap(text => {
    const token = el('i', {}, text.replaceAll('\n', '↵'));
    return text.endsWith('\n') ? [token, '\n'] : [token];
  }));
  return $$('i', node);
}
const paint = (list, texts, style) => list.forEach((token, i) => {
  token.className = style(i) + (texts[i].endsWith('\n') ? ' nl' : '');
});
const mark = (list, i) => list.forEach((token, j) => token.classList.toggle('cur', i === j));
const facts = pairs => el('dl', { class: 'facts' },
  ...pairs.map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))));
function bars(list, near, label, limit = 1) {
  list.replaceChildren(...near.map(([text, p]) => {
    const bar = svg('svg', { class: 'bx', viewBox: '0 0 100 10', preserveAspectRatio: 'none' });
    bar.append(svg('rect', { width: (100 * clamp(p / limit, 0, 1)).toFixed(1), height: 10 }));
    return el('li', text === label ? { class: 'is' } : {}, el('code', {}, text), bar, el('span', {}, percent(p)));
  }));
}

if (D.surprisal) {
  const node = $('#p-surprisal'), panel = $('#panel-surprisal');
  let run = D.surprisal.runs[0], list = $$('i', node);
  const handle = slider(node, {
    count: () => list.length,
    start: () => run.at,
    at: tokenAt(() => list),
    show(i) {
      mark(list, i);
      const token = el('code', {}, run.label[i]);
      const before = run.text.slice(Math.max(0, i - 12), i).join('').slice(-24).replaceAll('\n', '↵');
      const after = run.text.slice(i + 1, i + 13).join('').slice(0, 24).replaceAll('\n', '↵');
      const alternatives = el('ol', { class: 'bars' });
      bars(alternatives, run.near[i], run.label[i], Math.max(.25, run.near[i][0][1]));
      panel.replaceChildren(
        run.backward ? el('h4', {}, token, after ? ' ' + after + '…' : ' end')
          : el('h4', {}, before ? '…' + before + ' ' : 'start ', token),
        facts([['surprisal', run.bits[i].toFixed(2) + ' bits'], ['probability', percent(run.p[i])],
          ['rank', `${run.rank[i].toLocaleString('en')} of ${run.size.toLocaleString('en')}`], ['entropy', run.entropy[i].toFixed(2) + ' bits']]),
        el('div', { class: 'mut' }, 'Most probable tokens'), alternatives);
    },
    text: i => `${run.label[i]}, ${run.bits[i].toFixed(1)} bits, rank ${run.rank[i]}`,
  });
  for (const radio of $$('input[name="r-surprisal"]')) radio.addEventListener('change', () => {
    run = D.surprisal.runs[chosenRun('surprisal')];
    list = fill(node, run.text);
    paint(list, run.text, i => 'u' + bin(run.bits[i], SURPRISAL));
    handle.redraw();
  });
}

for (const [key, tags] of Object.entries(D.tags)) {
  const node = $('#p-' + key), panel = $('#panel-' + key), list = $$('i', node);
  const near = i => tags.near[i].map(([label, p]) => [tags.labels[label], p]);
  slider(node, {
    count: () => list.length,
    start: () => tags.at,
    at: tokenAt(() => list),
    show(i) {
      mark(list, i);
      const found = el('ol', { class: 'bars' }), predicted = tags.labels[tags.tags[i]];
      bars(found, near(i), predicted);
      panel.replaceChildren(el('h4', {}, 'Token ', el('code', {}, tags.token[i])),
        facts([['right', tags.labels[tags.right[i]]], ['predicted', predicted]]),
        el('div', { class: 'mut' }, 'Most probable labels'), found);
    },
    text: i => `${tags.token[i]}, ${tags.labels[tags.tags[i]]}`
      + (tags.right[i] === tags.tags[i] ? '' : `, wrong: ${tags.labels[tags.right[i]]} is right`),
  });
}

if (D.memory) {
  const node = $('#p-memory'), first = D.memory.runs[0];
  const rows = D.memory.runs.map((run, k) => ({
    run, list: $$('i', $(`[data-mem="${k}"]`)), top: $(`[data-top="${k}"]`), starts: run.starts,
  }));
  /* Runs with other tokens show the token at the same character. */
  const same = (row, i) => {
    const at = rows[0].starts[i];
    let j = row.starts.length - 1;
    while (j > 0 && row.starts[j] > at) j--;
    return j;
  };
  slider(node, {
    count: () => first.text.length,
    start: () => D.memory.at,
    at(event) {
      const token = event.target.closest?.('i');
      for (const row of rows) {
        const j = row.list.indexOf(token);
        if (j >= 0) {
          let i = first.text.length - 1;
          while (i > 0 && rows[0].starts[i] > row.starts[j]) i--;
          return i;
        }
      }
      return null;
    },
    show(i) {
      for (const row of rows) {
        const j = same(row, i), values = row.run.rows[j];
        paint(row.list, row.run.text, k => values[k] >= 0 ? 'm' + bin(values[k], MEMORY) : '');
        mark(row.list, j);
        bars(row.top, row.run.near[j], row.run.label[j]);
      }
    },
    text: i => `${first.label[i]}: ` + rows.map(row => {
      const j = same(row, i), values = row.run.rows[j], most = Math.max(...values, -1), k = values.indexOf(most);
      return row.run.name + (most < 0 ? ' has nothing before it'
        : ` depends most on ${row.run.label[k]}, ${Math.abs(j - k)} ${k < j ? 'back' : 'ahead'}`);
    }).join('; '),
  });
}

if (D.unit) {
  const node = $('#p-unit'), panel = $('#panel-unit'), label = $('#unit-label');
  let run = D.unit.runs[0], list = $$('i', node), high = unpack(run), range = null, anchor = null, pressed = null;
  function unpack(run) {
    const raw = atob(run.high), width = Math.ceil(run.units.length / 8);
    return (i, unit) => raw.charCodeAt(i * width + (unit >> 3)) >> (7 - (unit & 7)) & 1;
  }
  const best = () => run.best[label.value] ?? Object.values(run.best)[0];
  function style(value) {
    const step = Math.min(4, Math.floor(Math.abs(value) / 20));
    return step ? (value > 0 ? 'p' : 'n') + step : 'p0';
  }
  function colour() { paint(list, run.text, i => style(best().values[i])); }
  function describe(i) {
    const unit = best();
    panel.replaceChildren(
      el('h4', {}, unit.unit + ' ', el('code', {}, run.label[i])),
      facts([['value', (unit.values[i] / 100).toFixed(2).replace('-', '−')],
        [unit.measure, unit.score.toFixed(3)], ['control', unit.control.toFixed(3)],
        ['with the label', unit.rises ? 'rises' : 'falls']]));
  }
  function select(next) {
    range = next && (next[0] > next[1] ? [next[1], next[0]] : next);
    const hits = new Set();
    if (range) {
      const units = run.units.map((_, unit) => unit).filter(unit => {
        for (let i = range[0]; i <= range[1]; i++) if (!high(i, unit)) return false;
        return true;
      });
      const shown = units.slice(0, 8);
      list.forEach((_, i) => {
        if (shown.length && (i < range[0] || i > range[1])
          && shown.filter(unit => high(i, unit)).length >= Math.ceil(.8 * shown.length)) hits.add(i);
      });
      panel.replaceChildren(
        el('h4', {}, 'Selected ', el('code', {}, run.label.slice(range[0], range[1] + 1).join('').slice(0, 24))),
        el('p', { class: 'mut' }, `Units that are among their highest tenth throughout: ${units.length} of ${run.units.length}`
          + (shown.length ? ': ' + shown.map(unit => run.units[unit]).join(', ') + (units.length > shown.length ? ' …' : '') : '') + '.'),
        el('p', { class: 'mut' }, shown.length ? `Other tokens at which at least 80 % of the units listed are, underlined: ${hits.size}.` : ''));
    }
    list.forEach((token, i) => {
      token.classList.toggle('sel', !!range && i >= range[0] && i <= range[1]);
      token.classList.toggle('hit', hits.has(i));
    });
  }
  const handle = slider(node, {
    count: () => list.length,
    start: () => best().at,
    at: event => range || pressed !== null ? null : tokenAt(() => list)(event),
    show(i) { mark(list, i); if (!range) describe(i); },
    extend(move) {
      if (!move) { anchor = null; select(null); return; }
      anchor ??= move[0];
      select([anchor, move[1]]);
    },
    text: i => `${run.label[i]}, ${best().unit} is ${(best().values[i] / 100).toFixed(2)}`,
  });
  node.addEventListener('pointerdown', event => {
    const i = tokenAt(() => list)(event);
    if (i !== null) { select(null); pressed = i; }
  });
  node.addEventListener('pointermove', event => {
    const i = tokenAt(() => list)(event);
    if (pressed !== null && i !== null && i !== pressed) select([pressed, i]);
  });
  addEventListener('pointerup', () => { pressed = null; });
  label.addEventListener('change', () => { select(null); colour(); handle.redraw(); });
  for (const radio of $$('input[name="r-unit"]')) radio.addEventListener('change', () => {
    run = D.unit.runs[chosenRun('unit')];
    high = unpack(run);
    const before = label.value;
    label.replaceChildren(...Object.keys(run.best).map(name => el('option', { value: name }, name)));
    if (before in run.best) label.value = before;
    list = fill(node, run.text);
    range = null;
    colour();
    handle.redraw();
  });
}

if (D.embeddings) {
  const node = $('#p-embeddings'), panel = $('#panel-embeddings');
  const groups = $$('svg', node).map(drawing => $$('.e', drawing));
  slider(node, {
    count: () => D.embeddings.label.length,
    start: () => 0,
    at: event => { const group = event.target.closest?.('.e'); return group ? +group.dataset.i : null; },
    show(i) {
      const near = new Set(D.embeddings.near[i].map(([label]) => label));
      for (const group of groups) group.forEach((node, j) => {
        node.classList.toggle('cur', j === i);
        node.classList.toggle('near', near.has(D.embeddings.label[j]));
      });
      const list = el('ol', { class: 'bars' });
      bars(list, D.embeddings.near[i], null);
      $$('span', list).forEach((node, k) => { node.textContent = D.embeddings.near[i][k][1].toFixed(2); });
      panel.replaceChildren(el('h4', {}, 'Token ', el('code', {}, D.embeddings.label[i])),
        facts([['in the training text', D.embeddings.count[i].toLocaleString('en')]]),
        el('div', { class: 'mut' }, 'Nearest by cosine, all dimensions'), list);
    },
    text: i => `${D.embeddings.label[i]}, nearest ${D.embeddings.near[i].map(([label]) => label).join(', ')}`,
  });
}

/* Numbers: large tables are made when they are opened. */
const MADE = {
  surprisal: () => [['run', 'position', 'token', 'bits', 'probability', 'rank', 'entropy'],
    D.surprisal.runs.flatMap(run => run.label.map((label, i) => [run.name, i + 1, label, run.bits[i], run.p[i], run.rank[i], run.entropy[i]]))],
  memory: () => [['run', 'position', 'predicted', 'earlier position', 'earlier', 'relative squared norm'],
    D.memory.runs.flatMap(run => run.rows.flatMap((row, i) => row.flatMap((value, j) => value < 0 ? [] : [[run.name, i + 1, run.label[i], j + 1, run.label[j], value / 1000]])))],
  unit: () => [['run', 'position', 'token', 'label', 'unit', 'value'],
    D.unit.runs.flatMap(run => Object.entries(run.best).flatMap(([name, unit]) => unit.values.map((value, i) => [run.name, i + 1, run.label[i], name, unit.unit, value / 100])))],
};
function numbers(key) {
  const tags = D.tags[key];
  if (tags) return [['position', 'token', 'right', 'predicted', 'probability'], tags.token.map((token, i) =>
    [i + 1, token, tags.labels[tags.right[i]], tags.labels[tags.tags[i]], tags.near[i][0][1]])];
  if (!(key in D.tables)) return MADE[key]();
  const { h, c } = D.tables[key];
  return [h, (c[0] ?? []).map((_, row) => c.map(column => column[row]))];
}
const cell = value => value === null || value === undefined ? '' : String(value);
for (const details of $$('details[data-table]')) details.addEventListener('toggle', () => {
  if (details.children.length > 1) return;
  const [head, rows] = numbers(details.dataset.table);
  const body = el('tbody', {}, ...rows.map(row => el('tr', {}, ...row.map(value => el('td', {}, cell(value))))));
  const titles = el('thead', {}, el('tr', {}, ...head.map(title => el('th', { scope: 'col' }, title))));
  details.append(el('div', { class: 'tw', tabindex: 0, role: 'region', 'aria-label': 'Numbers' }, el('table', {}, titles, body)));
});

/* Downloads. */
function save(name, type, text) {
  const link = el('a', { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
/* A spreadsheet would read text that begins with one of these signs as a formula. */
const harmless = value => typeof value === 'string' && /^[=+\-@\t\r]/.test(value) ? "'" + value : cell(value);
const quote = text => /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
for (const button of $$('[data-csv]')) button.addEventListener('click', () => {
  const [head, rows] = numbers(button.dataset.csv);
  save(button.dataset.csv + '.csv', 'text/csv',
    [head, ...rows].map(row => row.map(value => quote(harmless(value))).join(',')).join('\n') + '\n');
});
const PROPERTIES = ['fill', 'stroke', 'stroke-width', 'stroke-dasharray', 'stroke-linecap', 'stroke-linejoin',
  'opacity', 'font-family', 'font-size', 'font-weight', 'text-anchor'];
for (const button of $$('[data-svg]')) button.addEventListener('click', () => {
  const drawings = $$('svg.chart', button.closest('figure')).filter(node => node.getBoundingClientRect().width);
  drawings.forEach((drawing, k) => {
    const copy = drawing.cloneNode(true), from = [drawing, ...$$('*', drawing)], to = [copy, ...$$('*', copy)];
    from.forEach((node, i) => {
      const style = getComputedStyle(node);
      for (const property of PROPERTIES) to[i].setAttribute(property, style.getPropertyValue(property));
      to[i].removeAttribute('class');
    });
    copy.setAttribute('xmlns', SVG);
    copy.prepend(svg('rect', { width: '100%', height: '100%', fill: getComputedStyle(document.body).backgroundColor }));
    save(button.dataset.svg + (k ? '-' + (k + 1) : '') + '.svg', 'image/svg+xml', copy.outerHTML);
  });
});

/* Which section is on the screen. */
const links = new Map($$('nav a').map(link => [link.hash.slice(1), link]));
function current() {
  let now = null;
  for (const section of $$('main section')) if (section.getBoundingClientRect().top < innerHeight * .35) now = section.id;
  for (const [id, link] of links) {
    if (id === now) link.setAttribute('aria-current', 'true'); else link.removeAttribute('aria-current');
  }
}
addEventListener('scroll', current, { passive: true });
current();
