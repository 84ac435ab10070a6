// In the place of a photograph that cannot be shown, say why: the server answers with the reason as text.
export function explainImages(part = document) {
  for (const image of part.querySelectorAll('.photo img')) {
    if (image.complete && image.naturalWidth === 0) explain(image);
    else image.addEventListener('error', () => explain(image), { once: true });
  }
}

async function explain(image) {
  let reason = 'the server does not answer';
  try {
    const response = await fetch(image.src);
    if (response.ok) return;
    reason = (await response.text()).trim();
  } catch { /* the server was stopped */ }
  const why = document.createElement('p');
  why.className = 'why';
  why.textContent = `No photograph: ${reason}`;
  image.closest('.photo').classList.add('missing');
  image.after(why);
}
