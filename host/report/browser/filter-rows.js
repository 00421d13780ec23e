// Shows of the answers the rows that won, lost, or all; without scripts all of them stand there.
for (const group of document.querySelectorAll('.buttons')) group.hidden = false;
for (const note of document.querySelectorAll('.scripted')) note.hidden = false;
for (const button of document.querySelectorAll('button[data-filter]'))
  button.addEventListener('click', () => {
    const wanted = button.dataset.filter;
    for (const row of document.querySelectorAll('tr[data-change]'))
      row.hidden = wanted !== 'all' && row.dataset.change !== wanted;
    for (const each of document.querySelectorAll('button[data-filter]'))
      each.setAttribute('aria-pressed', String(each === button));
  });
