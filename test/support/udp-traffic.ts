/**
 * Numbered UDP datagrams through whatever is under test: `udp-traffic echo PORT`, and
 * `udp-traffic send ADDRESS PORT INTERVAL_MS [BYTES]`, which sends until its standard input ends, waits for the last
 * answers, and prints what became of them as JSON; meanwhile, now and then, how many datagrams were answered.
 */
import dgram from 'node:dgram'

export interface TrafficResult {
  readonly sent: number
  readonly lost: number
  readonly duplicates: number
  /** Whether the last one sent was answered: it goes on. */
  readonly goesOn: boolean
  /** The longest pause between two answers, and when it began (CLOCK_MONOTONIC, ms). */
  readonly gapMs: number
  readonly gapAt: number
}

const LAST_ANSWERS_MS = 1500
const REPORT_EVERY = 10
const [, , mode, ...words] = process.argv

function echo(port: number): void {
  const socket = dgram.createSocket('udp6')
  socket.on('message', (message, from) => socket.send(message, from.port, from.address))
  socket.bind(port, '::', () => console.log('ready'))
}

function send(address: string, port: number, interval: number, size: number): void {
  const socket = dgram.createSocket(address.includes(':') ? 'udp6' : 'udp4')
  const seen = new Set<number>()
  let sent = 0
  let duplicates = 0
  let last = Number.NaN
  let gapMs = 0
  let gapAt = 0
  const now = () => Number(process.hrtime.bigint()) / 1e6
  socket.on('message', (answer) => {
    const sequence = answer.readUInt32BE(0)
    if (seen.has(sequence)) duplicates++
    seen.add(sequence)
    const at = now()
    if (at - last > gapMs) {
      gapMs = at - last
      gapAt = last
    }
    last = at
    if (seen.size % REPORT_EVERY === 1) console.log(`answers ${seen.size}`)
  })
  let due = now()
  const timer = setInterval(() => {
    for (; due <= now(); due += interval) {
      const message = Buffer.alloc(size) // of its own: sends are asynchronous
      message.writeUInt32BE(sent++, 0)
      socket.send(message, port, address)
    }
  }, interval)
  process.stdin.on('end', () => {
    clearInterval(timer)
    setTimeout(() => {
      const goesOn = seen.has(sent - 1)
      const result: TrafficResult = { sent, lost: sent - seen.size, duplicates, goesOn, gapMs, gapAt }
      console.log(JSON.stringify(result))
      process.exit(0)
    }, LAST_ANSWERS_MS)
  })
  process.stdin.resume()
}

if (mode === 'echo') echo(Number(words[0]))
else if (mode === 'send') send(words[0]!, Number(words[1]), Number(words[2]), Number(words[3] ?? 100))
