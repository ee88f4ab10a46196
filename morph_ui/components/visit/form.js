(tab, keys) => {
  const place = `chrysalis-form-${tab}`, same = { __type__: 'update' }, seen = window.chrysalisForms ??= {};
  return {
    // What a reload finds: as it was, but for what is new in the form since.
    back() {
      let old = {};
      try { old = JSON.parse(sessionStorage.getItem(place)) || {}; } catch { /* no storage here */ }
      seen[tab] = true;
      return keys.map(k => k in old ? old[k] : same);
    },
    keep(values) {
      if (!seen[tab]) return;  // the page is being built
      try { sessionStorage.setItem(place, JSON.stringify(Object.fromEntries(keys.map((k, i) => [k, values[i]])))); } catch { /* no storage here */ }
    },
  };
}