// Suggest the names of classes and attributes, which are loaded when a field is first used.
export function suggestNames() {
  const place = document.body.dataset.names;
  for (const kind of ['object', 'attribute']) {
    const field = document.querySelector(`input[name="${kind}"]`);
    const list = document.getElementById(`${kind}-names`);
    if (!place || !field || !list) continue;
    field.addEventListener('focus', async () => {
      const names = await (await fetch(place)).json();
      list.replaceChildren(...names[kind].map(name => Object.assign(document.createElement('option'), { value: name })));
    }, { once: true });
  }
  // Empty fields would make links long.
  for (const form of document.querySelectorAll('form.filters'))
    form.addEventListener('formdata', event => {
      for (const [name, value] of [...event.formData]) if (value === '') event.formData.delete(name);
    });
}
