"""How a page looks: on a phone, in dark mode and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1c2128; --faint: #656d76; --line: #d8dee4; --code: #f5f7f9;
  --bar: #c9d1d9; --accent: #1f6feb; --good: #1a7f37; --warn: #9a4a00;
  --match: #8a6100; --match-fill: #fff3cc; --merge: #0550ae; --merge-fill: #dbeafe;
  --size: #116329; --size-fill: #dcf5e3; --along: #6639ba; --along-fill: #efe6ff;
  --unmerge: #a40e26; --unmerge-fill: #ffe1e0; --added: #57606a; --added-fill: #eaeef2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0d1117; --ink: #e6edf3; --faint: #8d96a0; --line: #30363d; --code: #161b22;
    --bar: #3d444d; --accent: #58a6ff; --good: #3fb950; --warn: #e3964a;
    --match: #e8c05a; --match-fill: #3a2f0b; --merge: #8cc4ff; --merge-fill: #12305a;
    --size: #7ee29a; --size-fill: #10351c; --along: #cbaaff; --along-fill: #302050;
    --unmerge: #ff9d97; --unmerge-fill: #4a1519; --added: #9aa4ae; --added-fill: #21262d;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 84rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p, li, dd { overflow-wrap: anywhere; }
p { margin: .5rem 0; }
code, pre { font: .85em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { margin: 0; padding: .6rem .8rem; overflow-x: auto; background: var(--code);
  border-radius: 6px; }
p + pre, pre + pre { margin-top: .5rem; }
.small { color: var(--faint); font-size: .85rem; font-weight: normal; }

.facts { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; }
.facts div { flex: 1 1 9rem; padding: .75rem 1rem; border: 1px solid var(--line);
  border-radius: 8px; }
.facts b { display: block; font-size: 1.4rem; line-height: 1.3; }
.facts span { color: var(--faint); font-size: .9rem; }
.merged { color: var(--good); }
.dense { color: var(--warn); }

table { width: 100%; border-collapse: collapse; font-size: .9rem; margin: .5rem 0;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .5rem; text-align: left; vertical-align: top; overflow-wrap: anywhere;
  border-bottom: 1px solid var(--line); }
td code { overflow-wrap: break-word; }
th { color: var(--faint); font-weight: normal; }
.number { text-align: right; white-space: nowrap; width: 1%; padding-right: 1rem; }

figure { margin: 1rem 0 .25rem; }
figcaption { font-size: .9rem; }
.plot { display: flex; flex-direction: column; border-bottom: 1px solid var(--line); }
.plot svg { width: 100%; height: 8rem; }
.ends { display: flex; justify-content: space-between; gap: 1rem; overflow-wrap: anywhere; }
.ends span:last-child:not(:first-child) { text-align: right; }
svg .before, .key.before { fill: var(--bar); background: var(--bar); }
svg .after, .key.after { fill: var(--accent); background: var(--accent); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; }
.pictures { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr)); }
.pictures img { max-width: 100%; height: auto; }

details { margin: .25rem 0; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
details > pre, details > table { padding: .6rem .8rem; }
details > table { margin: 0; }
summary { padding: .35rem .8rem; cursor: pointer; overflow-wrap: anywhere; }
details[open] > summary { border-bottom: 1px solid var(--line); }
.sides { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); }
.sides pre, details > pre { border-radius: 0; font-size: .75rem; }
.sides pre + pre { margin: 0; border-left: 1px solid var(--line); }
pre b, summary b, dt b { font-weight: normal; border-radius: 3px; }
pre .module { color: var(--faint); font-style: italic; }
pre i { font-style: normal; color: var(--accent); }
summary b, dt b { padding: 0 .35em; font-size: .8rem; }
b.match { color: var(--match); background: var(--match-fill); }
b.merge { color: var(--merge); background: var(--merge-fill); }
b.size { color: var(--size); background: var(--size-fill); }
b.along { color: var(--along); background: var(--along-fill); }
b.unmerge { color: var(--unmerge); background: var(--unmerge-fill); }
b.added { color: var(--added); background: var(--added-fill); }
.kinds { display: grid; grid-template-columns: max-content 1fr; gap: .15rem .75rem;
  margin: .5rem 0; font-size: .85rem; }
.kinds dd { margin: 0; color: var(--faint); }

@media (max-width: 62rem) {
  main { padding: .5rem .75rem 3rem; }
  .sides { grid-template-columns: minmax(0, 1fr); }
  .sides pre + pre { border-left: 0; border-top: 1px solid var(--line); }
  .sides pre::before { content: "before\\A"; white-space: pre; color: var(--faint); }
  .sides pre + pre::before { content: "after\\A"; }
  .gap { display: none; }
  .number { padding-right: .5rem; }
  td code { overflow-wrap: anywhere; }
}
@media print {
  :root { --paper: #ffffff; --ink: #000000; }
  body { font-size: 11px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  tr, figure { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""
