// The page at /: which models there are (asked of /page/state), and a talk with one (/v1/chat/completions, streamed).
// Whatever comes from a server or a model becomes text by textContent only, never markup.
'use strict'

const WORDS = {
  en: {
    brand: 'Hanbit', skip: 'To the message', models: 'Models', others: 'Other models', settings: 'Settings',
    system: 'System prompt', none: 'none', temperature: 'Temperature', models_own: 'default',
    max_tokens: 'Most tokens', welcome: 'What would you like to know?', conversation: 'Conversation',
    local: 'Everything you write stays with this server.', ask: 'Write a message', message: 'Message',
    again: 'New chat', hint: 'Enter sends, Shift+Enter begins a line', send: 'Send', stop: 'Stop', you: 'You said',
    key: 'This server wants a key', unreachable: 'The server does not answer. Trying again.',
    ready: 'ready', loading: 'loading', unavailable: 'unavailable', off: 'not loaded', adapter: 'adapter',
    no_chat: 'no chat template', answers: 'answers', written: 'tokens out', read: 'tokens in',
    now: '{} running, {} waiting', idle: 'idle', requests: '{} requests', first_token: 'to the first token',
    speed: 'tokens/s', tokens: 'tokens', ended_length: 'cut at the most tokens', ended_stopped: 'stopped',
    no_models: 'No model is ready to talk.', failed: 'The answer broke off.', answered: 'The answer is complete.',
    too_long: 'The talk no longer fits the model. Begin a new chat.', busy: 'The server is busy. Try again in a moment.',
    examples: ['What is the capital of France?', 'Why is the sky blue?', 'Write a short poem about the sea.'],
  },
  ko: {
    brand: '한빛', skip: '메시지 입력란으로', models: '모델', others: '다른 모델', settings: '설정',
    system: '시스템 프롬프트', none: '없음', temperature: '온도', models_own: '기본값',
    max_tokens: '최대 토큰', welcome: '무엇이 궁금하신가요?', conversation: '대화',
    local: '입력한 내용은 이 서버를 벗어나지 않습니다.', ask: '메시지를 입력하세요', message: '메시지',
    again: '새 대화', hint: 'Enter로 보내기, Shift+Enter로 줄바꿈', send: '보내기', stop: '멈추기', you: '내 메시지',
    key: '이 서버는 키가 필요합니다', unreachable: '서버가 응답하지 않습니다. 다시 시도하는 중입니다.',
    ready: '준비됨', loading: '불러오는 중', unavailable: '사용 불가', off: '불러오지 않음', adapter: '어댑터',
    no_chat: '대화 템플릿 없음', answers: '답변', written: '출력 토큰', read: '입력 토큰',
    now: '{}개 실행 중, {}개 대기 중', idle: '대기 상태', requests: '요청 {}회', first_token: '첫 토큰까지',
    speed: '토큰/초', tokens: '토큰', ended_length: '최대 토큰에서 끊김', ended_stopped: '멈춤',
    no_models: '대화할 수 있는 모델이 없습니다.', failed: '답변이 중간에 끊겼습니다.', answered: '답변이 끝났습니다.',
    too_long: '대화가 모델의 문맥 길이를 넘었습니다. 새 대화를 시작하세요.', busy: '서버가 바쁩니다. 잠시 뒤 다시 시도하세요.',
    examples: ['프랑스의 수도는 어디인가요?', '하늘은 왜 파란가요?', '바다에 대한 짧은 시를 써 주세요.'],
  },
}
const POLL_MS = 2000
const NEAR_END_PX = 60

const $ = id => document.getElementById(id)
const make = (tag, className = '', text = '') => Object.assign(document.createElement(tag), { className, textContent: text })
const word = name => WORDS[language][name]
const filled = (name, ...values) => values.reduce((text, value) => text.replace('{}', value), word(name))
const number = (value, options = {}) => new Intl.NumberFormat(language, options).format(value)

// ---- what is remembered; a browser may refuse to

function remembered(name) {
  try { return localStorage.getItem('hanbit.' + name) } catch { return null }
}
function remember(name, value) {
  try { localStorage.setItem('hanbit.' + name, value) } catch { /* then not */ }
}

// ---- language

let language = remembered('language') ?? (navigator.language.toLowerCase().startsWith('ko') ? 'ko' : 'en')
if (!(language in WORDS)) language = 'en'

function speak() {
  document.documentElement.lang = language
  document.title = word('brand')
  for (const one of document.querySelectorAll('[data-word]')) one.textContent = word(one.dataset.word)
  for (const one of document.querySelectorAll('[data-placeholder]')) one.placeholder = word(one.dataset.placeholder)
  for (const one of document.querySelectorAll('[data-label]')) one.ariaLabel = word(one.dataset.label)
  for (const one of document.querySelectorAll('article')) one.tell()
  $('language').textContent = language === 'ko' ? 'English' : '한국어'
  $('language').lang = language === 'ko' ? 'en' : 'ko'
  $('examples').replaceChildren(...word('examples').map(text => {
    const button = make('button', '', text)
    button.type = 'button'
    button.onclick = () => send(text)
    return button
  }))
  drawn = ''
  draw()
}

// ---- models and their state

let state = { models: [], engines: [] }
let drawn = ''
let wanted = remembered('model') // may be away for a while
let chosen = null

async function poll() {
  try {
    const response = await fetch('/page/state', { headers: authorization() })
    $('key-row').hidden = response.status !== 401
    if (response.ok) state = await response.json()
    $('unreachable').hidden = response.ok || response.status === 401
  } catch {
    $('unreachable').hidden = false
  }
  draw()
}

function authorization() {
  return $('key').value ? { Authorization: 'Bearer ' + $('key').value } : {}
}

const stateName = model => ({ READY: 'ready', LOADING: 'loading', UNAVAILABLE: 'unavailable' })[model.state] ?? 'off'
const canTalk = model => model.state === 'READY' && model.engine !== null && state.engines[model.engine].can_chat
// loading, or away though nobody unloaded it
const isBroken = model => ['LOADING', 'UNAVAILABLE'].includes(model.state) && model.reason !== 'unloaded'

function draw() {
  const talking = state.models.filter(model => model.engine !== null)
  const able = talking.filter(canTalk).map(model => model.name)
  chosen = able.includes(wanted) ? wanted : able[0] ?? null
  const now = JSON.stringify([state, chosen, language])
  if (now === drawn) return // what is not redrawn keeps its focus and its place
  drawn = now
  const focused = document.activeElement?.name === 'model'
  const silent = state.models.filter(model => model.engine === null)
  const broken = silent.filter(isBroken)
  const cards = state.engines.map((engine, index) => engineCard(engine, talking.filter(model => model.engine === index)))
  if (!cards.length && !broken.length) cards.push(make('p', 'soft', word('no_models')))
  $('engines').replaceChildren(...cards, ...broken.map(brokenCard))
  if (focused) document.querySelector('input[name=model]:checked')?.focus()
  const others = silent.filter(model => !isBroken(model))
  $('others').hidden = !others.length
  $('num-others').textContent = number(others.length)
  $('other-list').replaceChildren(...others.map(otherLine))
  $('current').textContent = chosen ?? word('models')
  $('current-dot').className = 'dot ' + (chosen ? 'ready' : 'off')
  ready()
}

function engineCard(engine, models) {
  const card = make('div', 'engine')
  const list = figures([
    ['answers', number(engine.finished)],
    ['written', number(engine.generated_tokens, { notation: 'compact' })],
    ['read', number(engine.prompt_tokens, { notation: 'compact' })],
  ])
  const isBusy = engine.running + engine.waiting > 0
  const now = isBusy ? filled('now', number(engine.running), number(engine.waiting)) : word('idle')
  card.append(...models.map(modelRow), list, make('p', 'now', now))
  return card
}

function modelRow(model) {
  const row = make('label', 'model')
  const radio = Object.assign(make('input'), { type: 'radio', name: 'model', value: model.name })
  radio.checked = model.name === chosen
  radio.disabled = !canTalk(model)
  radio.onchange = () => { wanted = model.name; remember('model', wanted); fold(false); draw() }
  const engine = state.engines[model.engine]
  const details = []
  if (model.is_adapter) details.push(word('adapter'))
  if (!engine.can_chat) details.push(word('no_chat'))
  row.append(radio, dot(model), make('strong', '', model.name), make('span', 'state ' + stateName(model), word(stateName(model))))
  if (details.length) row.append(make('small', '', details.join(' · ')))
  return row
}

function brokenCard(model) {
  const card = make('div', 'engine')
  const row = make('div', 'model')
  row.append(dot(model), make('strong', '', model.name), make('span', 'state ' + stateName(model), word(stateName(model))))
  if (model.reason) row.append(make('small', '', model.reason))
  card.append(row)
  return card
}

function otherLine(model) {
  const line = make('li')
  line.append(dot(model), make('span', 'name', model.name))
  line.append(make('span', 'soft', model.state === 'READY' ? filled('requests', number(model.requests)) : word('off')))
  return line
}

function dot(model) {
  const one = make('span', 'dot ' + stateName(model))
  one.ariaHidden = 'true'
  return one
}

function figures(pairs) {
  const list = make('dl', 'figures')
  for (const [name, value] of pairs) {
    const pair = make('div')
    pair.append(make('dt', '', word(name)), make('dd', '', value))
    list.append(pair)
  }
  return list
}

// ---- the talk

let messages = [] // as the protocol has them, without the system's
let running = null // an AbortController while an answer comes

function ready() {
  $('send').disabled = !chosen || !$('words').value.trim()
  $('send').hidden = running !== null
  $('stop').hidden = running === null
  $('again').hidden = !messages.length
  $('welcome').hidden = messages.length > 0
  for (const button of $('examples').children) button.disabled = !chosen
}

async function send(text) {
  if (!text.trim() || !chosen || running) return
  $('words').value = ''
  grow()
  const talk = messages // a new chat may begin before this answer ends
  talk.push({ role: 'user', content: text })
  $('talk').append(userArticle(text))
  const article = answerArticle(chosen)
  $('talk').append(article)
  running = new AbortController()
  ready()
  $('talk').scrollTop = $('talk').scrollHeight
  const answer = { text: '', tokens: 0, began: performance.now(), first: null, last: null, ended: null, problem: null }
  try {
    await listen(request(), running.signal, answer, article)
  } catch (problem) {
    if (problem.name === 'AbortError') answer.ended = 'stopped'
    else answer.problem ??= 'failed'
  }
  running = null
  article.end(answer)
  if (answer.text) talk.push({ role: 'assistant', content: answer.text })
  else talk.pop()
  if (!answer.text && answer.problem) $('words').value ||= text // to be sent again
  $('spoken').textContent = word(answer.problem ? 'failed' : 'answered')
  ready()
  poll()
}

function request() {
  const system = $('system').value.trim()
  const asked = {
    model: chosen,
    messages: [...(system ? [{ role: 'system', content: system }] : []), ...messages],
    stream: true,
    stream_options: { include_usage: true },
  }
  if ($('temperature').value !== '') asked.temperature = $('temperature').valueAsNumber
  if ($('max-tokens').value !== '') asked.max_tokens = $('max-tokens').valueAsNumber
  return asked
}

async function listen(asked, signal, answer, article) {
  const response = await fetch('/v1/chat/completions', {
    method: 'POST', signal, body: JSON.stringify(asked),
    headers: { 'Content-Type': 'application/json', ...authorization() },
  })
  if (!response.ok) {
    answer.problem = problemOf(await response.json())
    return
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ''
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return
    const events = (rest + value).split('\n\n')
    rest = events.pop()
    for (const event of events) if (event !== 'data: [DONE]') hear(JSON.parse(event.slice('data: '.length)), answer)
    article.show(answer)
  }
}

function hear(chunk, answer) {
  if (chunk.error) answer.problem = problemOf(chunk)
  if (chunk.usage) answer.tokens = chunk.usage.completion_tokens
  const choice = chunk.choices?.[0]
  if (choice?.delta.content) {
    answer.last = performance.now()
    answer.first ??= answer.last
    answer.text += choice.delta.content
    answer.tokens += 1 // nearly: the usage at the end has the true number
  }
  if (choice?.finish_reason === 'length') answer.ended = 'length'
}

// What came at once, out of one read of the network, has no speed
const LEAST_SECONDS_OF_A_SPEED = 0.1

const PROBLEMS = { context_length_exceeded: 'too_long', rate_limit_exceeded: 'busy' }

function problemOf(body) {
  return PROBLEMS[body.error?.code] ?? { message: body.error?.message ?? String(body.error) }
}

function userArticle(text) {
  const article = make('article', 'user')
  const who = make('h3', 'hidden')
  article.append(who, make('p', 'text', text))
  article.tell = () => { who.textContent = word('you') }
  article.tell()
  return article
}

// show(answer) while it comes, end(answer) once; tell() says the figures again in another language
function answerArticle(model) {
  const article = make('article', 'assistant')
  const text = make('p', 'text')
  const spoken = text.appendChild(document.createTextNode(''))
  const footer = make('footer')
  article.append(make('h3', 'who', model), text, footer)
  article.ariaBusy = 'true'
  let heard = null
  article.show = answer => {
    heard = answer
    const talk = $('talk')
    const isAtEnd = talk.scrollHeight - talk.scrollTop - talk.clientHeight < NEAR_END_PX
    if (answer.text.length > spoken.length) spoken.appendData(answer.text.slice(spoken.length))
    article.tell()
    if (isAtEnd) talk.scrollTop = talk.scrollHeight
  }
  article.end = answer => {
    article.ariaBusy = 'false'
    article.show(answer)
  }
  article.tell = () => { if (heard) footer.replaceChildren(...figuresOf(heard)) }
  return article
}

function figuresOf(answer) {
  const found = []
  const figure = (value, unit) => {
    const one = make('span')
    one.append(make('b', '', value), ' ' + unit)
    found.push(one)
  }
  if (answer.first !== null) {
    figure(`${number(Math.round(answer.first - answer.began))} ms`, word('first_token'))
    const seconds = (answer.last - answer.first) / 1000
    if (answer.tokens > 1 && seconds > LEAST_SECONDS_OF_A_SPEED) figure(number((answer.tokens - 1) / seconds, { maximumFractionDigits: 1 }), word('speed'))
    figure(number(answer.tokens), word('tokens'))
  }
  if (answer.ended) found.push(make('span', '', word('ended_' + answer.ended)))
  if (answer.problem) found.push(make('span', 'error', answer.problem.message ?? word(answer.problem)))
  return found
}

// ---- keys and buttons

function grow() { // where the style sheet's field-sizing is not known
  if (!CSS.supports('field-sizing', 'content')) $('words').rows = Math.min(8, $('words').value.split('\n').length)
}

$('words').oninput = () => { grow(); ready() }
$('words').onkeydown = event => {
  // a syllable that is being composed takes its Enter for itself; 229 is what older browsers say of it
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing || event.keyCode === 229) return
  event.preventDefault()
  send($('words').value)
}
$('ask').onsubmit = event => { event.preventDefault(); send($('words').value); $('words').focus() }
$('stop').onclick = () => { running?.abort(); $('words').focus() }
document.onkeydown = event => { if (event.key === 'Escape' && running) running.abort() }
$('again').onclick = () => {
  running?.abort()
  messages = []
  for (const article of document.querySelectorAll('article')) article.remove()
  ready()
  $('words').focus()
}
$('language').onclick = () => {
  language = language === 'ko' ? 'en' : 'ko'
  remember('language', language)
  speak()
}
function fold(isOpen) { // on a narrow screen
  $('panel').classList.toggle('open', isOpen)
  $('panel-switch').ariaExpanded = String(isOpen)
}
$('panel-switch').onclick = () => fold(!$('panel').classList.contains('open'))
$('key-row').onsubmit = event => { event.preventDefault(); poll() }
$('key').onchange = poll
for (const name of ['system', 'temperature', 'max-tokens']) {
  $(name).value = remembered(name) ?? $(name).value
  $(name).oninput = () => remember(name, $(name).value)
}

speak()
poll()
setInterval(() => { if (!document.hidden) poll() }, POLL_MS)
document.onvisibilitychange = () => { if (!document.hidden) poll() }
