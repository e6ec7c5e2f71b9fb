"""Scripts by which tests measure a page in a browser: figures, contrast, and overflow."""

FIGURES = """[...document.querySelectorAll('figure')].map(figure => {
  const box = element => {
    const at = element.getBoundingClientRect();
    return [at.left, at.right, at.width, at.height];
  };
  const shown = [...figure.querySelectorAll('svg, img')].filter(element => element.getBoundingClientRect().width > 0);
  return {
    name: figure.id,
    shown: shown.length,
    pictures: shown.filter(element => element.tagName === 'IMG').length,
    loaded: shown.every(element => element.tagName !== 'IMG' || element.naturalWidth > 0),
    box: shown.length ? box(shown[0]) : null,
    drawn: shown.flatMap(element => [...element.querySelectorAll('path, text')]
      .filter(part => part.getBoundingClientRect().width + part.getBoundingClientRect().height > 0)).length,
    cut: shown.filter(element => element.tagName !== 'IMG').flatMap(element => [...element.querySelectorAll('text')]
      .filter(text => { const [a, b] = [box(text), box(element)]; return a[0] < b[0] - 2 || a[1] > b[1] + 2; })
      .map(text => text.textContent)),
    overlapping: shown.flatMap(element => {
      const texts = [...element.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
      return texts.flatMap(([one, a], place) => texts.slice(place + 1).filter(([other, b]) =>
        Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
        Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3).map(([other]) => one + ' | ' + other));
    }),
    sizes: shown.flatMap(element => [...element.querySelectorAll('text')]
      .map(text => text.getBoundingClientRect().height)),
  };
})"""

# Contrast of the Web Content Accessibility Guidelines 2 between text and page, smallest over some
# elements.
CONTRAST = """(() => {
  const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = colour => {
    const [r, g, b] = colour.match(/[0-9.]+/g).map(Number).map(value => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = luminance(getComputedStyle(document.body).backgroundColor);
  const against = colour => {
    const text = luminance(colour);
    return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
  };
  const words = [...document.querySelectorAll('p, li, figcaption, figcaption strong, caption span, th, td, dt, dd, a')];
  const labels = [...document.querySelectorAll('svg text')];
  return Math.min(
    ...words.map(element => against(getComputedStyle(element).color)),
    ...labels.map(element => against(getComputedStyle(element).fill)),
  );
})()"""

OVERFLOW = """[document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth,
  [...document.querySelectorAll('main *')].filter(element => {
    for (let at = element; at; at = at.parentElement) if (at.classList.contains('scroll')) return false;
    return !element.closest('svg') && getComputedStyle(element).position !== 'absolute'
      && element.getBoundingClientRect().right > document.scrollingElement.clientWidth + 1;
  }).map(element => element.tagName + '.' + element.className)]"""
