// A sample's boxes and the rows of its regions light each other; the chosen region is in the URL, #region-N.
export function linkRegions() {
  const table = document.getElementById('regions');
  if (!table) return;
  const rows = byNumber(table.querySelectorAll('tbody > tr[data-n]'));
  const boxes = byNumber(document.querySelectorAll('#figure .region'));
  const labels = byNumber(document.querySelectorAll('#figure .label'));
  const all = document.getElementById('all-boxes');
  all.closest('.switch').hidden = [...rows.values()].every(row => row.classList.contains('shown'));
  let chosen = numberOf(location.hash);

  function show(lit) {
    for (const [number, row] of rows) {
      const is = number === lit;
      row.classList.toggle('lit', is);
      row.querySelector('.pick').setAttribute('aria-pressed', String(number === chosen));
      const box = boxes.get(number);
      box.classList.toggle('shown', is || all.checked || row.classList.contains('shown'));
      box.classList.toggle('lit', is);
      box.classList.toggle('faded', lit !== null && !is);
      labels.get(number).classList.toggle('lit', is);
    }
  }

  function choose(number) {
    chosen = chosen === number ? null : number;
    history.replaceState(null, '', chosen === null ? location.pathname + location.search : `#region-${chosen}`);
    show(chosen);
  }

  for (const [number, row] of rows) {
    row.addEventListener('pointerenter', () => show(number));
    row.addEventListener('pointerleave', () => show(chosen));
    row.querySelector('.pick').addEventListener('focus', () => show(number));
    row.querySelector('.pick').addEventListener('blur', () => show(chosen));
    row.querySelector('.pick').addEventListener('click', () => choose(number));
    const box = boxes.get(number);
    box.addEventListener('pointerenter', () => show(number));
    box.addEventListener('pointerleave', () => show(chosen));
    box.addEventListener('click', () => { choose(number); rows.get(number).scrollIntoView({ block: 'nearest' }); });
  }
  all.addEventListener('change', () => show(chosen));
  addEventListener('hashchange', () => { chosen = numberOf(location.hash); show(chosen); });
  show(chosen);
}

const byNumber = elements => new Map([...elements].map(element => [Number(element.dataset.n), element]));

function numberOf(hash) {
  const found = /^#region-(\d+)$/.exec(hash);
  return found ? Number(found[1]) : null;
}
