"""The frame of the page that lays runs side by side, its look and its few lines of script. comparison_page fills it."""

from string import Template

from vitslite.monitoring import stylesheet

TABLE = Template("""<section>
<h2>$title</h2>
<p class="about">$about</p>
<div class="box" tabindex="0" role="region" aria-label="$title">
<table>
<thead><tr>$heads</tr></thead>
<tbody>
$rows
</tbody>
</table>
</div>
</section>""")

# Everything of variant i has the class "v{i}", in pictures an id that begins with "v{i}-"; $hiding makes the rules.
PAGE = Template(
    stylesheet.HEAD
    + """body { max-width: 84rem; }
h2 { margin: 0 0 .5rem; font: 1.3rem/1.35 Georgia, serif; }
h3 { margin: 1.5rem 0 .5rem; font: 1.1rem/1.35 Georgia, serif; overflow-wrap: anywhere; }
.about, thead th, thead button, small, .missing { color: var(--soft); font-size: .875rem; font-weight: normal; }
.about { max-width: 60rem; overflow-wrap: anywhere; }
.about > * { margin: .5rem 0; }
code { font: .9em ui-monospace, monospace; overflow-wrap: break-word; }
a { color: inherit; }
nav { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin-top: 1rem;
  padding: .5rem 0; max-height: 30vh; overflow: auto; background: var(--paper); border-bottom: 1px solid var(--line); }
nav label { display: flex; gap: .35rem; align-items: center; font-size: .875rem; cursor: pointer; }
nav input { accent-color: var(--colour); }
.swatch { flex: none; display: inline-block; width: .75rem; height: .75rem; border-radius: 3px;
  background: var(--colour); margin-right: .35rem; }
nav + section { margin-top: 0; border: 0; }
.of { display: flex; align-items: baseline; min-width: 0; }
.of > :last-child { min-width: 0; }
.box { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9375rem; }
th, td { padding: .4rem 1rem .4rem 0; border-top: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { border: 0; vertical-align: bottom; }
thead button { padding: 0; border: 0; background: none; font-family: inherit; text-align: left; cursor: pointer; }
thead button:hover { color: var(--ink); text-decoration: underline; }
th[aria-sort] button::after { content: " \\25B4"; }
th[aria-sort=descending] button::after { content: " \\25BE"; }
tbody th { min-width: 15rem; max-width: 26rem; font-weight: normal; }
td { white-space: nowrap; }
td.words { white-space: normal; min-width: 14rem; }
th small, td small { display: block; }
summary { margin: .5rem 0; cursor: pointer; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; }
figcaption { font-size: .875rem; }
svg { display: block; width: 100%; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.voices { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); gap: 1.5rem; }
.voices > div { min-width: 0; }
.voices p { margin: .35rem 0 0; font-size: .875rem; overflow-wrap: anywhere; }
.recording { max-width: 28rem; margin-bottom: 1.25rem; }
.recording, .voices .of { font-size: .875rem; }
audio { display: block; width: 100%; max-width: 28rem; height: 2.25rem; }
img { display: block; width: 100%; height: auto; margin-top: .5rem; border-radius: 4px; background: #fff; }
del { color: var(--soft); }
@media (max-width: 45rem) {
  tbody th { min-width: 9rem; max-width: 12rem; }
  nav { position: static; max-height: none; }
}
$hiding
</style>
</head>
<body>
<h1>$title</h1>
<div class="about">$about</div>
<nav aria-label="variants to show">
$choices
</nav>
$sections
<script>
for (const box of document.querySelectorAll("nav input"))
  box.onchange = () => document.body.classList.toggle("hide-" + box.value, !box.checked);
const order = (a, b) => Number.isNaN(a - b) ? a.localeCompare(b) : a - b;
for (const head of document.querySelectorAll("thead th")) head.querySelector("button").onclick = () => {
  const turn = head.ariaSort === "ascending" ? -1 : 1, i = head.cellIndex;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", turn > 0 ? "ascending" : "descending");
  const body = head.closest("table").tBodies[0], value = row => row.cells[i].dataset.value;
  const rows = [...body.rows], known = rows.filter(value);
  known.sort((a, b) => turn * order(value(a), value(b)));
  body.append(...known, ...rows.filter(row => !value(row)));  // what was not measured stays below
};
document.addEventListener("play", e => {
  for (const other of document.querySelectorAll("audio")) if (other !== e.target) other.pause();
}, true);
</script>
</body>
</html>
"""
)
