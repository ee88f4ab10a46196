element.querySelectorAll('button').forEach(b => b.addEventListener('click', () => trigger('choose', { index: +b.dataset.index })));
