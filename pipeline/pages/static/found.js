// A part of a page that takes the server longer is fetched when the rest is shown: from the page that has it whole.
export async function loadParts(onLoaded) {
  for (const part of document.querySelectorAll('[data-from]')) {
    try {
      const response = await fetch(part.dataset.from);
      const page = new DOMParser().parseFromString(await response.text(), 'text/html');
      const whole = response.ok ? page.getElementById(part.id) : null;
      if (whole === null) throw new Error(page.querySelector('main p')?.textContent ?? 'the server does not answer');
      part.replaceWith(document.adoptNode(whole));
      onLoaded(whole);
    } catch (error) {
      part.querySelector('[role=status]').textContent = `No result: ${error.message}`;
      part.removeAttribute('aria-busy');
    }
  }
}
