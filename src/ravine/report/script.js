// Draws every chart of the page. `ast` interprets expressions instead of compiling them, so no code is made from text.
const specs = JSON.parse(document.getElementById("specs").textContent);
const options = {
  mode: "vega-lite", renderer: "svg", ast: true,
  actions: { export: true, source: false, compiled: false, editor: false },
};
const drawn = Object.entries(specs).map(([key, spec]) => {
  const place = document.getElementById(key);
  return vegaEmbed(place, spec, { ...options, downloadFileName: `ravine-${key}` })
    .catch((error) => { place.textContent = `This chart could not be drawn: ${error.message}`; });
});
Promise.all(drawn).then(() => { document.documentElement.dataset.drawn = String(drawn.length); });
// Details are closed on the screen and open on paper.
addEventListener("beforeprint", () => document.querySelectorAll(".page > details, section > details").forEach((d) => { d.open = true; }));
