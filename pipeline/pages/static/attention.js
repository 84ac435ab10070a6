'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const byId = name => document.getElementById(name);
const elements = { words: [], regions: [], labels: [], clears: [] };
for (const side of ['word', 'region', 'label', 'clear'])
  for (const it of document.querySelectorAll('.' + side)) elements[side + 's'][Number(it.dataset.n)] = it;
const state = { map: data.start.map, head: -1, side: data.start.side, index: data.start.index };
const decoded = new Map();

function levels(number) {
  if (!decoded.has(number)) decoded.set(number, Uint8Array.from(atob(data.maps[number].weights), c => c.charCodeAt(0)));
  return decoded.get(number);
}
// The weights of the chosen head, or their mean over heads, row by row.
function matrix() {
  const map = data.maps[state.map], bytes = levels(state.map);
  const size = data[map.rows].length * data[map.columns].length, sum = new Float32Array(size);
  const heads = state.head < 0 ? map.most.map((_, head) => head) : [state.head];
  for (const head of heads)
    for (let at = 0; at < size; at++)
      sum[at] += bytes[head * size + at] / 255 * map.most[head] / heads.length;
  return sum;
}
const greatest = values => values.reduce((most, value) => Math.max(most, value), 1e-9);

function show() {
  const map = data.maps[state.map], weights = matrix(), columns = data[map.columns].length;
  if (state.side !== map.rows && state.side !== map.columns) { state.side = map.rows; state.index = Math.min(1,
    data[map.rows].length - 1); }
  const looks = state.side === map.rows;
  const other = looks ? map.columns : map.rows;
  const values = data[other].map((_, at) => weights[looks ? state.index * columns + at : at * columns + state.index]);
  const most = greatest(values);
  // Most heads look at the whole image far more than at any region, which would leave all regions dim.
  const ofRegions = Math.max(...values.slice(1), 0) || most;
  const share = at => other === 'regions' ? Math.min(1, values[at] / ofRegions) : values[at] / most;
  const order = values.map((_, at) => at).sort((a, b) => values[b] - values[a] || a - b).slice(0, data.listed);
  for (const side of ['words', 'regions'])
    elements[side].forEach((it, at) => {
      it.style.setProperty('--w', side === other ? share(at) : 0);
      it.classList.toggle('chosen', side === state.side && at === state.index);
      if (side === 'words') it.setAttribute('aria-pressed', side === state.side && at === state.index);
    });
  elements.clears.forEach((it, at) => it.style.setProperty('--w', other === 'regions' ? share(at) : 0));
  byId('dim').classList.toggle('dimming', other === 'regions');
  label(other === 'regions' ? order : [], state.side === 'regions' ? [state.index] : []);
  byId('chosen').textContent = '\u201c' + data[state.side][state.index] + '\u201d ' +
    (looks ? 'looks at' : 'is looked at by');
  byId('listed').tBodies[0].replaceChildren(...order.map(at => {
    const row = document.createElement('tr'), bar = document.createElement('span');
    bar.className = 'bar';
    bar.style.setProperty('--w', values[at] / most);
    row.insertCell().textContent = values[at].toFixed(3);
    row.cells[0].className = 'number';
    row.insertCell().append(bar);
    row.insertCell().textContent = data[other][at];
    return row;
  }));
  draw(map, weights);
}

// Labels of the chosen region and of those that matter, each at the first corner of its box where none is yet.
function label(order, chosen) {
  const taken = [], picture = byId('picture').viewBox.baseVal, size = data.font * 1.2;
  for (const it of elements.labels) it.classList.remove('there');
  for (const at of [...chosen, ...order].filter(at => at > 0)) {
    const [box, text] = [elements.regions[at].querySelector('rect'), elements.labels[at]];
    const [x1, y1] = [box.x.baseVal.value, box.y.baseVal.value];
    const [x2, y2] = [x1 + box.width.baseVal.value, y1 + box.height.baseVal.value];
    text.classList.add('there');
    const width = text.getComputedTextLength();
    const places = [x1, x2 - width].flatMap(x => [y1 - size, y1 + 1, y2 - size - 1, y2].map(y => [
      Math.max(0, Math.min(x, picture.width - width)), Math.max(0, Math.min(y, picture.height - size))]));
    const free = places.find(([x, y]) => !taken.some(
      ([left, top, right]) => x < right && left < x + width && y < top + size && top < y + size));
    if (!free) { text.classList.remove('there'); continue; }
    taken.push([free[0], free[1], free[0] + width]);
    text.setAttribute('x', free[0]);
    text.setAttribute('y', free[1] + size - 0.3 * data.font);
  }
}

// The whole matrix: who looks from the left, at whom along the top.
const place = { cell: 14, left: 150, top: 110 };
function draw(map, weights) {
  const rows = data[map.rows], columns = data[map.columns], most = greatest(weights), canvas = byId('matrix');
  place.cell = Math.max(9, Math.min(24, Math.floor(800 / columns.length)));
  const width = place.left + columns.length * place.cell + 90, height = place.top + rows.length * place.cell + 4;
  const sharp = window.devicePixelRatio || 1;
  canvas.width = width * sharp; canvas.height = height * sharp;
  canvas.style.width = width + 'px'; canvas.style.height = height + 'px';
  const pen = canvas.getContext('2d'), style = getComputedStyle(document.documentElement);
  const hot = style.getPropertyValue('--hot').trim().split(' ').join(','), ink = style.getPropertyValue('--ink');
  pen.scale(sharp, sharp);
  pen.font = Math.min(13, place.cell - 1) + 'px system-ui, sans-serif';
  const short = name => name.length > 20 ? name.slice(0, 19) + '\u2026' : name;
  rows.forEach((name, row) => {
    const y = place.top + row * place.cell;
    pen.fillStyle = ink; pen.textAlign = 'right';
    pen.fillText(short(name), place.left - 6, y + place.cell / 2 + 4);
    columns.forEach((_, column) => {
      pen.fillStyle = 'rgba(' + hot + ',' + (weights[row * columns.length + column] / most).toFixed(3) + ')';
      pen.fillRect(place.left + column * place.cell, y, place.cell - 1, place.cell - 1);
    });
  });
  pen.textAlign = 'left';
  columns.forEach((name, column) => {
    pen.save();
    pen.translate(place.left + (column + 0.6) * place.cell, place.top - 5);
    pen.rotate(-Math.PI / 3);
    pen.fillStyle = ink;
    pen.fillText(short(name), 0, 0);
    pen.restore();
  });
  pen.strokeStyle = style.getPropertyValue('--edge'); pen.lineWidth = 2;
  if (state.side === map.rows) pen.strokeRect(place.left - 1, place.top + state.index * place.cell - 1,
    columns.length * place.cell + 1, place.cell + 1);
  else pen.strokeRect(place.left + state.index * place.cell - 1, place.top - 1, place.cell + 1,
    rows.length * place.cell + 1);
  byId('matrix-title').textContent = map.name + ', ' + (state.head < 0 ? 'mean of ' + map.most.length + ' heads' :
    'head ' + state.head) + '; darkest: ' + most.toFixed(3);
}

function choose(side, index) { state.side = side; state.index = index; show(); }
for (const side of ['words', 'regions'])
  elements[side].forEach((it, at) => {
    it.addEventListener('click', () => choose(side, at));
    it.addEventListener('keydown', event => { if (event.key === 'Enter') choose(side, at); });
  });
byId('matrix').addEventListener('click', event => {
  const map = data.maps[state.map];
  const row = Math.floor((event.offsetY - place.top) / place.cell);
  const column = Math.floor((event.offsetX - place.left) / place.cell);
  if (row >= 0 && row < data[map.rows].length) choose(map.rows, row);
  else if (column >= 0 && column < data[map.columns].length) choose(map.columns, column);
});
function heads() {
  const count = data.maps[state.map].most.length, select = byId('head');
  const options = Array.from({ length: count }, (_, head) => new Option('head ' + head, head));
  select.replaceChildren(new Option('mean of all', -1), ...options);
  state.head = state.head < count ? state.head : -1;
  select.value = state.head;
}
byId('map').addEventListener('change', event => { state.map = Number(event.target.value); heads(); show(); });
byId('head').addEventListener('change', event => { state.head = Number(event.target.value); show(); });
byId('map').value = state.map; // a reload keeps what was chosen before
heads();
show();
