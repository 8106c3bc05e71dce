"""The style sheet of the report: one column, light and dark, no external resource."""

CSS = """
:root { color-scheme: light dark;
  --paper: #f7f6f2; --card: #ffffff; --ink: #1b2330; --soft: #4b5565; --muted: #6f7887; --line: #e4e1d8;
  --after: #0b7a6f; --before: #a9afba; --plain: #d2d5db; --good: #148a4e; --near: #c98a04; --bad: #d1495b;
  --s1: #0b7a6f; --s2: #c2691c; --s3: #6a5acd; --s4: #2f7fc1; --s5: #a83f6f; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #101318; --card: #181c23; --ink: #e8eaef; --soft: #bcc3ce; --muted: #8d96a5; --line: #2a303a;
  --after: #35c9b4; --before: #646d7b; --plain: #434b58; --good: #43c884; --near: #e8b33a; --bad: #ef7183;
  --s1: #35c9b4; --s2: #f0a35c; --s3: #a79bf5; --s4: #6bb4ee; --s5: #e388b4; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-font-smoothing: antialiased;
  font: 15px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial,
  sans-serif; }
main, header { max-width: 1120px; margin: 0 auto; padding: 0 28px; }
header { padding-top: 52px; }
.kicker { margin: 0; color: var(--after); font-size: 12px; font-weight: 650; letter-spacing: .09em; text-transform:
  uppercase; }
h1 { margin: 6px 0 10px; font-size: clamp(28px, 4.4vw, 42px); line-height: 1.12; letter-spacing: -.022em;
  font-weight: 700; }
h2 { margin: 0 0 4px; font-size: 22px; letter-spacing: -.012em; line-height: 1.25; }
h3 { margin: 26px 0 8px; font-size: 14px; font-weight: 650; }
.lead { margin: 0; max-width: 78ch; color: var(--soft); font-size: 17px; line-height: 1.55; }
section { margin-top: 60px; }
section > p { margin: 0 0 18px; max-width: 86ch; color: var(--soft); }
.facts { display: grid; grid-template-columns: repeat(4, 1fr); gap: 14px 26px; margin: 28px 0 0;
  padding: 18px 0; border-block: 1px solid var(--line); }
.facts dt { color: var(--muted); font-size: 12px; }
.facts dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 18px; }
.card, .chart { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 18px 20px;
  margin: 0; }
.card h3 { margin: 0; }
.card > p.foot { margin: 12px 0 0; color: var(--muted); font-size: 13px; line-height: 1.5; }
.big { display: flex; align-items: baseline; gap: 12px; margin: 2px 0 14px; font-size: 46px; font-weight: 700;
  line-height: 1.1;
  letter-spacing: -.03em; font-variant-numeric: tabular-nums; }
.big small { font-size: 20px; font-weight: 600; letter-spacing: 0; margin-left: -8px; color: var(--muted); }
.big em { font-size: 14px; font-style: normal; font-weight: 600; letter-spacing: 0; color: var(--good); }
.big em.down { color: var(--bad); }
.bars { display: grid; gap: 9px; font-size: 13px; }
.bar { display: grid; grid-template-columns: 92px 1fr 62px; align-items: center; gap: 10px; }
.bar > span { color: var(--soft); }
.bar > b { text-align: right; font-weight: 600; font-variant-numeric: tabular-nums; }
.bar small { color: var(--muted); font-weight: 400; }
.track { position: relative; height: 10px; border-radius: 5px; background: color-mix(in srgb, var(--line) 60%,
  transparent); }
.fill { position: absolute; inset: 0 auto 0 0; border-radius: 5px; background: var(--plain); }
.before .fill { background: var(--before); } .after .fill { background: var(--after); }
.after > span, .after > b { color: var(--ink); font-weight: 650; }
.track .mark { position: absolute; top: -3px; bottom: -3px; width: 0; border-left: 1.5px dashed var(--muted); }
.note { margin: 0; color: var(--muted); font-size: 12px; }
.note .mark { display: inline-block; height: 10px; margin-right: 4px; border-left: 1.5px dashed var(--muted); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); gap: 18px; }
.chart { padding: 14px 16px 8px; }
.chart svg { display: block; width: 100%; height: auto; overflow: visible; }
.chart figcaption { display: flex; flex-wrap: wrap; align-items: baseline; gap: 2px 8px; margin-bottom: 8px;
  font-size: 14px; }
.chart small { color: var(--muted); }
.chart ul { display: flex; flex-wrap: wrap; gap: 0 14px; margin: 0 0 0 auto; padding: 0; list-style: none;
  font-size: 12px;
  color: var(--soft); }
.chart li::before { content: ""; display: inline-block; width: 14px; height: 3px; margin-right: 6px; vertical-align:
  3px;
  border-radius: 2px; background: currentColor; }
li.s1::before { background: var(--s1); } li.s2::before { background: var(--s2); } li.s3::before { background:
  var(--s3); }
li.s4::before { background: var(--s4); } li.s5::before { background: var(--s5); }
.chart > p { margin: 2px 0 6px; color: var(--muted); font-size: 12px; line-height: 1.45; }
.grid { stroke: var(--line); } .tick, .axis, text.mark { fill: var(--muted); font-size: 11.5px; }
.tick { font-variant-numeric: tabular-nums; }
line.mark { stroke: var(--muted); stroke-dasharray: 4 4; }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.curve.s1 { stroke: var(--s1); } .curve.s2 { stroke: var(--s2); } .curve.s3 { stroke: var(--s3); }
.curve.s4 { stroke: var(--s4); } .curve.s5 { stroke: var(--s5); }
.dot.s1 { fill: var(--s1); } .dot.s2 { fill: var(--s2); } .dot.s3 { fill: var(--s3); } .dot.s4 { fill: var(--s4); }
.dot.s5 { fill: var(--s5); }
img { display: block; width: 100%; border-radius: 6px; outline: 1px solid #8882; outline-offset: -1px; }
.pixel { image-rendering: pixelated; }
figure { margin: 0; } .shot figcaption, .pair figcaption { margin-top: 5px; color: var(--muted); font-size: 12px;
  line-height: 1.35; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 18px; }
.strip { display: grid; grid-auto-flow: column; grid-auto-columns: minmax(0, 1fr); gap: 10px; }
.heads { display: grid; grid-template-columns: repeat(auto-fill, minmax(78px, 1fr)); gap: 10px; }
.stack { display: grid; gap: 18px; }
.crops { display: grid; grid-template-columns: 1.25fr 2.4fr 2.3fr; gap: 18px; align-items: start; }
.crops .tiles { display: grid; gap: 10px; }
.crops .tiles img { border-radius: 5px; }
.crops h4, .near h4 { margin: 0 0 6px; color: var(--muted); font-size: 12px; font-weight: 500; }
.pair svg { display: block; width: 100%; height: auto; border-radius: 6px; }
.link { fill: none; stroke-width: 1.7; } .spot { stroke-width: 1.3; }
.link.exact { stroke: var(--good); } .link.close { stroke: var(--near); } .link.wrong { stroke: var(--bad); }
.spot { stroke: #fff; } .spot.exact { fill: var(--good); } .spot.close { fill: var(--near); } .spot.wrong { fill:
  var(--bad); }
.spot.end { fill: #fff; stroke: #1b2330; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: -6px 0 16px; padding: 0; list-style: none; color:
  var(--soft);
  font-size: 13px; }
.legend i { display: inline-block; width: 18px; height: 4px; margin-right: 7px; border-radius: 2px; vertical-align:
  3px; }
.legend .ramp { width: 110px; height: 9px; border-radius: 5px; vertical-align: 0; margin: 0 8px; }
.near { display: grid; grid-template-columns: 1.25fr 6fr 6fr; gap: 24px; }
.near .strip { gap: 8px; }
.shot.hit img { box-shadow: 0 0 0 2px var(--good); } .shot.miss img { box-shadow: 0 0 0 2px var(--bad); }
.shot.miss figcaption { color: var(--bad); }
.shot figcaption { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
table { width: 100%; border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 12px 8px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--muted); font-size: 12px; font-weight: 500; } td.n, th.n { text-align: right; }
tr:last-child td { border-bottom: 0; }
td small { display: block; color: var(--muted); }
tr.chosen td { font-weight: 650; color: var(--after); }
.scroll { overflow-x: auto; }
.warned { border-left: 4px solid var(--near); } .warned td:first-child { font-weight: 650; }
.warned td small { font-weight: 400; white-space: nowrap; }
details { background: var(--card); border: 1px solid var(--line); border-radius: 12px; margin-top: 14px; }
summary { padding: 13px 20px; cursor: pointer; font-weight: 600; }
details > div, details > pre { margin: 0; padding: 2px 20px 18px; }
pre { overflow-x: auto; color: var(--soft); font: 12.5px/1.55 ui-monospace, "SF Mono", Menlo, Consolas,
  "Liberation Mono", monospace; }
footer { max-width: 1120px; margin: 64px auto 0; padding: 20px 28px 48px; color: var(--muted); font-size: 13px; }
@media (max-width: 700px) { main, header, footer { padding-inline: 18px; } .facts { grid-template-columns: 1fr 1fr; }
  .crops { grid-template-columns: 1fr 2fr; }
  .crops > :nth-child(3) { grid-column: 1 / -1; } .near { grid-template-columns: 1fr; }
  .near > :first-child { max-width: 96px; } .big { font-size: 38px; } }
@media print { section { break-inside: avoid; } }
"""
