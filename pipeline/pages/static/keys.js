// The keys of all pages; help is a dialog, and every key has a link or a button beside it.
export function listenToKeys() {
  const help = document.getElementById('help');
  const button = document.getElementById('help-button');
  button.hidden = false;
  button.addEventListener('click', () => help.showModal());
  document.addEventListener('keydown', event => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.target.closest('input, select, textarea')) {
      if (event.key === 'Escape') event.target.blur();
      return;
    }
    const act = action(event.key);
    if (act) { event.preventDefault(); act(); }
  });

  function action(key) {
    const link = rel => document.querySelector(`a[rel="${rel}"]`);
    const follow = rel => link(rel) && (() => link(rel).click());
    const cards = [...document.querySelectorAll('#grid .card a')];
    const search = document.getElementById('search');
    switch (key) {
      case '?': return () => help.showModal();
      case '/': return search && (() => { search.focus(); search.select(); });
      case 'n': return follow('next');
      case 'p': return follow('prev');
      case 'u': return follow('up');
      case 'ArrowRight': return cards.length ? () => move(cards, 1) : follow('next');
      case 'ArrowLeft': return cards.length ? () => move(cards, -1) : follow('prev');
      case 'ArrowDown': return cards.length ? () => move(cards, columns(cards)) : rows(1);
      case 'ArrowUp': return cards.length ? () => move(cards, -columns(cards)) : rows(-1);
    }
  }

  function columns(cards) {
    const top = cards[0].getBoundingClientRect().top;
    const wrapped = cards.findIndex(card => card.getBoundingClientRect().top > top + 1);
    return wrapped < 0 ? cards.length : wrapped;
  }

  function move(cards, step) {
    const at = cards.indexOf(document.activeElement);
    const to = at < 0 ? 0 : Math.min(Math.max(at + step, 0), cards.length - 1);
    cards[to].focus();
  }

  function rows(step) {
    const picks = [...document.querySelectorAll('#regions .pick')];
    const at = picks.indexOf(document.activeElement);
    if (at < 0) return null;
    return () => picks[Math.min(Math.max(at + step, 0), picks.length - 1)].focus();
  }
}
