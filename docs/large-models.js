'use strict'
// What one rank of a GPT holds and sends, in closed form. A test holds `memoryOf` to what `hanbit train --dry-run`
// traces (tests/docs/test_large_models.py), so that these few lines say what the real code does.

const SIZES = {
  '1.3B': { layers: 24, hidden: 2048, heads: 16, vocabulary: 51200, micro: 2, global: 512 },
  '5B': { layers: 24, hidden: 4096, heads: 32, vocabulary: 51200, micro: 2, global: 2048 },
  '20B': { layers: 44, hidden: 6144, heads: 48, vocabulary: 51200, micro: 2, global: 2048 },
  '40B': { layers: 48, hidden: 8192, heads: 64, vocabulary: 51200, micro: 2, global: 2048 },
  '175B': { layers: 96, hidden: 12288, heads: 96, vocabulary: 51200, micro: 1, global: 2048 },
}
const TOKENS = 2048 // of a sequence
const LIMIT = 80e9 // bytes of an A100 or H100
const PARTS = ['weights', 'gradients', 'optimizer', 'activations']
const FULL = 4, HALF = 2 // bytes of a number: weights, gradients and moments are kept whole, products are made of halves

// Layers of the first stage where the heaviest is as light as can be: the last one has the head beside its layers.
function layersOfFirst({ layers, hidden, vocabulary, pipeline }) {
  if (pipeline === 1) return layers
  const block = 12 * hidden * hidden + 13 * hidden, head = vocabulary * hidden + 2 * hidden
  let best = null
  for (let last = 1; last <= layers - pipeline + 1; last++) {
    const others = pipeline - 1, first = Math.ceil((layers - last) / others), long = (layers - last) - others * (first - 1)
    const weights = [first * block, (first - 1) * block, last * block + head]
    const most = Math.max(weights[0], weights[2])
    const squares = long * weights[0] ** 2 + (others - long) * weights[1] ** 2 + weights[2] ** 2
    if (!best || most < best.most || (most === best.most && squares < best.squares)) best = { most, squares, first }
  }
  return best.first
}

// Parameters of a rank of the first stage: its blocks and the embeddings, matrices cut by the tensor degree.
function parametersOf({ layers, hidden, vocabulary, tensor, pipeline }) {
  const block = 12 * hidden * hidden / tensor + 7 * hidden / tensor + 6 * hidden
  return layersOfFirst({ layers, hidden, vocabulary, pipeline }) * block + vocabulary * hidden / tensor + TOKENS * hidden
}

// Bytes of the first rank of the first stage, which holds most, by part.
function memoryOf({ layers, hidden, heads, vocabulary, micro, global, data, tensor, pipeline, shard, recompute }) {
  const parameters = parametersOf({ layers, hidden, vocabulary, tensor, pipeline })
  const shares = shard ? data : 1
  const isShared = shard && data > 1
  const tokens = micro * TOKENS
  // kept of a block for backward: two norms' inputs, four inputs of products, q, k, v and their result, the MLP's
  // inner before and after GELU; with recompute its input alone, and one block in full at a time
  const kept = tokens * hidden * (2 * FULL + 4 * HALF + (4 * HALF + 2 * 4 * HALF) / tensor) + FULL * tokens * heads / tensor
  const input = tokens * hidden * FULL
  const here = layersOfFirst({ layers, hidden, vocabulary, pipeline })
  const matrices = here * 12 * hidden * hidden / tensor // have a copy in half as many bytes during a step
  // what backward of one block needs beside what was kept: gradients on their way (as traced)
  const passing = tokens * hidden * (18 + 10 / tensor)
  const inFlight = Math.min(pipeline, Math.max(1, Math.floor(global / data / micro)))
  return {
    weights: parameters * FULL * (isShared ? 1 + 1 / shares : 1) + matrices * HALF,
    gradients: parameters * FULL,
    optimizer: parameters * 2 * FULL / shares,
    activations: (recompute ? here * inFlight * input + kept : here * inFlight * kept) + passing,
  }
}

// Bytes that a rank sends in a step, by the axis that they travel along, and the share of the time that it waits.
function sentOf({ layers, hidden, vocabulary, micro, global, data, tensor, pipeline }) {
  const around = (size) => 2 * (size - 1) / size // of a sum in a ring: every number goes round twice, less its own
  const batches = Math.max(1, Math.floor(global / data / micro))
  const hiddenBytes = micro * TOKENS * hidden
  return {
    data: around(data) * parametersOf({ layers, hidden, vocabulary, tensor, pipeline }) * FULL,
    tensor: around(tensor) * 4 * layersOfFirst({ layers, hidden, vocabulary, pipeline }) * hiddenBytes * HALF * batches,
    pipeline: pipeline > 1 ? hiddenBytes * FULL * batches : 0,
    idle: (pipeline - 1) / (batches + pipeline - 1),
  }
}

const WORDS = {
  en: {
    other: '한국어', title: 'Why a large model is hard to train',
    lead: 'Training keeps sixteen bytes and more for every parameter, and the intermediate results of every token. ' +
      'No GPU holds that for a large model, so the model is cut. Drag the three degrees and watch what is left on one GPU.',
    size: 'GPT of', data: 'data: replicas that share the batch', tensor: 'tensor: GPUs that share each matrix',
    pipeline: 'pipeline: stages that share the layers', shard: 'share the optimizer over the replicas (shard: 2)',
    recompute: 'compute activations again in backward (recompute: full)',
    weights: 'weights', gradients: 'gradients', optimizer: 'optimizer', activations: 'activations', all: 'one GPU holds',
    limit: 'a GPU of 80 GB', fits: '{ranks} GPUs, {bytes} on the fullest of them: it fits.',
    fails: '{ranks} GPUs, {bytes} on the fullest of them: it does not fit.',
    sent: 'What it costs: bytes that a GPU sends in a step', sent_data: 'data: gradients are summed once a step',
    sent_tensor: 'tensor: activations are summed four times in each layer, for each micro-batch',
    sent_pipeline: 'pipeline: hidden states travel between neighbours', idle: 'pipeline: share of a step that a stage waits',
    why: 'Why three kinds, and not one',
    why_memory: 'Memory. Weights, their gradients and the two moments of Adam grow with the model; activations grow with ' +
      'the model and with the tokens that are on their way at once.',
    why_data: 'Data parallelism makes training faster and saves no weight: each replica holds the whole model. Sharing the ' +
      'optimizer (ZeRO, FSDP2) takes its share away, at the price of gathering.',
    why_tensor: 'Tensor parallelism cuts every matrix, and sums after each of them. That is a lot of traffic in small ' +
      'pieces, so it stays inside a node.',
    why_pipeline: 'Pipeline parallelism cuts the layers and sends little, so it may cross nodes. But stages wait while the ' +
      'pipeline fills and empties, and the first stage keeps a micro-batch on its way for every stage behind it.',
    held: 'Closed form for bf16 products with fp32 weights, sequences of 2,048 tokens, 1F1B. A test holds the memory to what ' +
      '`hanbit train --dry-run` traces.',
  },
  ko: {
    other: 'English', title: '큰 모델은 왜 학습하기 어려운가',
    lead: '학습에는 파라미터 하나마다 16바이트가 넘게 들고, 모든 토큰의 중간 결과도 남겨 두어야 합니다. 큰 모델을 통째로 담을 수 있는 ' +
      'GPU는 없으므로 모델을 나눕니다. 세 가지 병렬도를 움직여 GPU 하나에 무엇이 남는지 보세요.',
    size: 'GPT 크기', data: '데이터: 배치를 나누어 맡는 복제본', tensor: '텐서: 행렬 하나를 나누어 맡는 GPU',
    pipeline: '파이프라인: 층을 나누어 맡는 단계', shard: '옵티마이저를 복제본끼리 나누기 (shard: 2)',
    recompute: '역전파 때 활성값을 다시 계산하기 (recompute: full)',
    weights: '가중치', gradients: '기울기', optimizer: '옵티마이저', activations: '활성값', all: 'GPU 하나에',
    limit: '80 GB GPU 하나', fits: 'GPU {ranks}개, 가장 많이 쓰는 곳이 {bytes}: 들어갑니다.',
    fails: 'GPU {ranks}개, 가장 많이 쓰는 곳이 {bytes}: 들어가지 않습니다.',
    sent: '그 값: GPU 하나가 한 스텝에 보내는 바이트', sent_data: '데이터: 기울기를 스텝마다 한 번 더합니다',
    sent_tensor: '텐서: 층마다, 마이크로배치마다 활성값을 네 번 더합니다',
    sent_pipeline: '파이프라인: 은닉 상태가 이웃 단계로 갑니다', idle: '파이프라인: 한 스텝에서 단계가 기다리는 비율',
    why: '왜 하나가 아니라 세 가지인가',
    why_memory: '메모리. 가중치와 기울기, Adam의 두 모멘트는 모델과 함께 커지고, 활성값은 모델과 동시에 처리 중인 토큰 수에 따라 커집니다.',
    why_data: '데이터 병렬은 학습을 빠르게 하지만 가중치를 줄이지 않습니다. 복제본마다 모델 전체를 갖기 때문입니다. 옵티마이저를 나누면' +
      '(ZeRO, FSDP2) 그 몫이 줄고, 그 대신 모으는 통신이 듭니다.',
    why_tensor: '텐서 병렬은 모든 행렬을 나누고 행렬마다 결과를 더합니다. 작은 통신이 아주 많아서 노드 안에 둡니다.',
    why_pipeline: '파이프라인 병렬은 층을 나누고 조금만 보내므로 노드를 넘어도 됩니다. 그러나 파이프라인이 차고 비는 동안 단계가 기다리고, ' +
      '첫 단계는 뒤에 있는 단계 수만큼의 마이크로배치를 붙들고 있습니다.',
    held: 'bf16 곱셈과 fp32 가중치, 2,048 토큰 시퀀스, 1F1B에 대한 닫힌 식입니다. 테스트가 이 메모리를 `hanbit train --dry-run`이 ' +
      '추적한 값과 맞춥니다.',
  },
}

const $ = (id) => document.getElementById(id)
let language = navigator.language.startsWith('ko') ? 'ko' : 'en'
const word = (name) => WORDS[language][name]

function readable(bytes) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB']
  let index = 0
  while (bytes >= 1000 && index < units.length - 1) { bytes /= 1000; index++ }
  return `${Number(bytes.toPrecision(3))} ${units[index]}`
}

const powers = (most) => Array.from({ length: Math.log2(most) + 1 }, (_, index) => 2 ** index)
const divisors = (number) => Array.from({ length: number }, (_, index) => index + 1).filter((one) => number % one === 0)

// What each slider's places mean for the chosen size.
function choices() {
  const shape = SIZES[$('size').value]
  return {
    data: powers(512),
    tensor: powers(8).filter((one) => shape.heads % one === 0),
    pipeline: divisors(shape.layers).filter((one) => one <= 24),
  }
}

function setting() {
  const shape = SIZES[$('size').value], all = choices()
  const chosen = Object.fromEntries(Object.entries(all).map(([name, values]) => [name, values[$(name).value]]))
  return { ...shape, ...chosen, shard: $('shard').checked, recompute: $('recompute').checked }
}

function element(name, properties = {}, ...children) {
  const found = Object.assign(document.createElement(name), properties)
  found.append(...children)
  return found
}

function draw() {
  const now = setting(), memory = memoryOf(now), sent = sentOf(now)
  const total = PARTS.reduce((sum, part) => sum + memory[part], 0)
  const scale = Math.max(total, LIMIT * 1.25)
  for (const name of ['data', 'tensor', 'pipeline']) $(`${name}-value`).textContent = now[name]
  const ranks = now.data * now.tensor * now.pipeline
  $('verdict').textContent = word(total <= LIMIT ? 'fits' : 'fails')
    .replace('{ranks}', ranks.toLocaleString()).replace('{bytes}', readable(total))
  const bar = (name, parts, bytes) => {
    const track = element('div', { className: 'track' }, ...parts.map((part) => {
      const piece = element('i', { className: part })
      piece.style.width = `${100 * memory[part] / scale}%`
      return piece
    }))
    const line = element('div', { className: 'limit' })
    line.style.left = `${100 * LIMIT / scale}%`
    track.append(line)
    return element('div', { className: 'bar' }, element('b', { textContent: name }), track,
      element('output', { textContent: readable(bytes) }))
  }
  $('chart').replaceChildren(bar(word('all'), PARTS, total), ...PARTS.map((part) => bar(word(part), [part], memory[part])))
  $('legend').replaceChildren(...PARTS.map((part) =>
    element('li', {}, element('i', { className: part }), word(part))), element('li', { textContent: `┆ ${word('limit')}` }))
  const rows = ['data', 'tensor', 'pipeline'].map((name) => [word(`sent_${name}`), readable(sent[name])])
  rows.push([word('idle'), `${Math.round(100 * sent.idle)}%`])
  $('sent').replaceChildren(...rows.map(([text, number]) =>
    element('tr', {}, element('td', { textContent: text }), element('td', { textContent: number }))))
}

// The places of a slider change with the size: keep its meaning as near as can be.
function fill(wanted) {
  for (const [name, values] of Object.entries(choices())) {
    $(name).min = 0
    $(name).max = values.length - 1
    const best = values.reduce((near, one) => Math.abs(one - wanted[name]) < Math.abs(near - wanted[name]) ? one : near)
    $(name).value = values.indexOf(best)
  }
}

function speak() {
  document.documentElement.lang = language
  document.title = word('title')
  for (const one of document.querySelectorAll('[data-word]')) one.textContent = word(one.dataset.word)
  $('language').textContent = word('other')
  draw()
}

function start() {
  $('size').append(...Object.keys(SIZES).map((name) => element('option', { value: name, textContent: name })))
  $('size').value = '175B'
  fill({ data: 16, tensor: 8, pipeline: 8 })
  let before = setting()
  $('size').onchange = () => { fill(before); draw() }
  for (const name of ['data', 'tensor', 'pipeline', 'shard', 'recompute']) {
    $(name).oninput = () => { before = setting(); draw() }
  }
  $('language').onclick = () => { language = language === 'en' ? 'ko' : 'en'; speak() }
  speak()
}

start()
