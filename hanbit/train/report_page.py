"""How `report.html` looks, and the few lines that make it answer to the pointer.

Colours are Okabe and Ito's blue and vermilion (2008), which all kinds of colour vision tell apart; the second line
is also dashed and dotted, so that colour never carries the meaning alone.
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1b2130; --soft: #5f6b80; --line: #e4e8ef; --paper: #f4f6fa; --card: #fff;
  --shade: 0 1px 2px #1b213012, 0 4px 16px #1b21300a; --first: #0072b2; --second: #d55e00 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ecf4; --soft: #98a3b8; --line: #2b3446; --paper: #0f131b;
  --card: #181e2a; --shade: none; --first: #56b4e9; --second: #f08a3c } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1120px; padding: 32px 24px 64px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Noto Sans KR", "Noto Sans CJK KR", "Apple SD Gothic Neo", "Malgun Gothic", sans-serif }
html[lang=en] .ko, html[lang=ko] .en { display: none }
header { margin-bottom: 22px; display: flex; justify-content: space-between; align-items: flex-start; gap: 16px }
h1 { font-size: 28px; line-height: 1.25; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere }
h2 { font-size: 15px; margin: 0; font-weight: 600 }
p { margin: 0 } .soft, dt, .key, .at { color: var(--soft); font-size: 13px }
button { font: inherit; font-size: 13px; color: var(--ink); background: var(--card); border: 1px solid var(--line);
  border-radius: 999px; padding: 4px 14px; cursor: pointer; white-space: nowrap }
button:hover { border-color: var(--first) }
dl, .card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; box-shadow: var(--shade) }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(114px, 1fr)); margin: 0 0 16px;
  padding: 6px 4px }
dl div { padding: 10px 12px; display: flex; flex-direction: column; justify-content: space-between }
dt { word-break: keep-all }
dd { margin: 0; font-size: 21px; font-weight: 600; white-space: nowrap; letter-spacing: -.01em }
dd, output, .at { font-variant-numeric: tabular-nums }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 360px), 1fr)); gap: 16px }
.card { padding: 14px 16px 10px; min-width: 0 }
.top { display: flex; flex-wrap: wrap; justify-content: space-between; align-items: baseline; gap: 0 12px }
.key { display: flex; flex-wrap: wrap; gap: 0 18px; min-height: 30px; align-items: baseline }
.key output { color: var(--ink); font-size: 18px; font-weight: 600 }
.key i ~ output { margin-left: 5px } .key small { font-size: 12px; margin-left: 4px }
.key i { display: inline-block; width: 18px; border-top: 2.5px solid var(--first); vertical-align: middle;
  margin-right: 6px }
.key i.second { border-top: 2.5px dashed var(--second) }
table { border-collapse: collapse; width: 100%; margin: 8px 0 4px } th { text-align: left; font-weight: 400 }
th, code { color: var(--soft); font-size: 13px } code { font-family: ui-monospace, monospace; overflow-wrap: anywhere }
.wide { margin-top: 16px } .wide td:nth-last-child(2) { min-width: 84px }
td, th { padding: 7px 16px 7px 0; border-top: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere }
.bar { display: flex; height: 26px; margin: 12px 0 8px; border-radius: 6px; overflow: hidden }
.bar span { min-width: 1px } .phases { display: flex; flex-wrap: wrap; gap: 2px 22px; padding-bottom: 4px }
.phases i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px }
.phases b { font-weight: 600; font-variant-numeric: tabular-nums; margin-left: 4px }
.forward_backward { background: #0072b2 } .communication { background: #e69f00 } .pipeline_idle { background: #d55e00 }
.optimizer { background: #009e73 } .data { background: #cc79a7 } .other { background: #8a93a3 }
.nothing { color: var(--soft); padding: 64px 0; text-align: center }
svg { width: 100%; height: auto; display: block; touch-action: pan-y; cursor: crosshair; border-radius: 6px }
svg:focus-visible { outline: 2px solid var(--first) }
svg text { fill: var(--soft); font-size: 11.5px; font-variant-numeric: tabular-nums }
svg line, polyline { vector-effect: non-scaling-stroke } .grid { stroke: var(--line) }
.cross { stroke: var(--soft); stroke-dasharray: 2 3; visibility: hidden } .reading .cross { visibility: visible }
polyline { fill: none; stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round }
polygon { fill: var(--first); opacity: .07; stroke: none } circle { fill: transparent; r: 5px }
.first polyline { stroke: var(--first) } .dense polyline { stroke-width: 1 }
.second polyline { stroke: var(--second); stroke-dasharray: 5 4 }
.second circle, .lone circle { r: 2.8px } .second circle { fill: var(--second) } .lone circle { fill: var(--first) }
.reading .first .here { r: 4px; fill: var(--first); stroke: var(--card); stroke-width: 1.5 }
.reading .second .here { r: 4.5px; fill: var(--second); stroke: var(--card); stroke-width: 1.5 }
details { margin-top: 16px } summary { cursor: pointer; padding: 14px 16px; font-weight: 600 }
details.card { padding: 0 } pre { overflow-x: auto; margin: 0; padding: 2px 18px 16px; font-size: 13px;
  line-height: 1.55; font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", "Noto Sans Mono CJK KR",
  monospace }
@media (max-width: 520px) { body { padding: 20px 14px 40px } h1 { font-size: 23px } svg text { font-size: 15px }
  dl { grid-template-columns: 1fr 1fr } dl div { padding: 8px 12px } dd { font-size: 19px } }
@media print { body { background: none } button { display: none } .card { break-inside: avoid } }
"""

# All charts have the same horizontal axis, so one pointer reads the same step in each of them. The numbers come from
# the <title> of the points, which show by themselves where scripts are off.
SCRIPT = """
const root = document.documentElement
document.querySelector('button').onclick = () => { root.lang = root.lang === 'ko' ? 'en' : 'ko' }
const cards = [...document.querySelectorAll('main .card')].filter(card => card.querySelector('svg'))
for (const card of cards) card.lines = [...card.querySelectorAll('svg g')].map(line => ({
  output: card.querySelector('output.' + line.classList[0]),
  points: [...line.querySelectorAll('circle')].map(circle => {
    const title = circle.querySelector('title')
    title.remove()
    return { circle, x: +circle.getAttribute('cx'), said: title.textContent.split(' · ').map(s => s.split(' ')[0]) }
  })
}))
const last = 1e9
let at = last
function read(x) {
  at = x
  for (const card of cards) {
    card.classList.toggle('reading', x !== last)
    const near = card.lines.map(({ points }) =>
      points.reduce((best, point) => Math.abs(point.x - x) < Math.abs(best.x - x) ? point : best))
    for (const mark of ['x1', 'x2']) card.querySelector('.cross').setAttribute(mark, near[0].x)
    card.querySelector('.step').textContent = near[0].said[0]
    card.querySelector('.tokens').textContent = near[0].said[1]
    card.querySelectorAll('.here').forEach(circle => circle.classList.remove('here'))
    near.forEach((point, index) => {
      const { output } = card.lines[index]
      point.circle.classList.add('here')
      output.textContent = point.said[2]
      output.nextElementSibling.textContent = point.said[0] === near[0].said[0] ? '' : '@ ' + point.said[0]
    })
  }
}
for (const svg of document.querySelectorAll('svg')) {
  const width = svg.viewBox.baseVal.width
  svg.onpointermove = event => {
    const box = svg.getBoundingClientRect()
    read((event.clientX - box.left) / box.width * width)
  }
  svg.onpointerleave = svg.onblur = () => read(last)
  svg.onkeydown = event => {
    const by = { ArrowLeft: -4, ArrowRight: 4 }[event.key]
    if (by) { read(Math.min(at, width) + by); event.preventDefault() }
  }
}
"""
