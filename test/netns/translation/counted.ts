/** A connection from m to c whose bytes are counted, one way or both ways. */
import type { ChildProcess } from 'node:child_process'
import { type Bed, until } from './bed.ts'
import { lines } from './flows.ts'

/** Sends back what it gets; with `ticks` it sends a byte every 20 ms instead. */
const SERVER = `
  const [port, ticks] = process.argv.slice(1)
  require('node:net').createServer((s) => {
    s.on('error', () => {}); s.setNoDelay()
    if (ticks === 'ticks') { s.resume(); setInterval(() => s.write('.'), 20) } else s.pipe(s)
  }).listen(Number(port), '::', () => console.log('ready'))`
/** Sends as many bytes as it is told, says how many have come. */
const CLIENT = `
  const s = require('node:net').connect({ host: process.argv[1], port: Number(process.argv[2]) }, () => console.log('ready'))
  let got = 0
  s.setNoDelay()
  s.on('data', (b) => { got += b.length; console.log('got ' + got + '.') })
  s.on('error', (e) => console.log('error ' + e.code)); s.on('close', () => console.log('closed'))
  process.stdin.on('data', (b) => s.write(Buffer.alloc(Number(String(b).trim()), 7)))`

export async function serve(bed: Bed, port: number, how: 'echo' | 'ticks' = 'echo'): Promise<void> {
  await lines(bed.spawn('c', process.execPath, ['-e', SERVER, String(port), how], 'pipe')).wait('ready')
}

export class Counted {
  readonly #program: ChildProcess
  readonly #out: ReturnType<typeof lines>
  #sent = 0

  private constructor(program: ChildProcess) {
    this.#program = program
    this.#out = lines(program)
  }

  static async open(bed: Bed, from: 'm' | 'c', to: string, port: number): Promise<Counted> {
    const counted = new Counted(bed.spawn(from, process.execPath, ['-e', CLIENT, to, String(port)], 'pipe'))
    await counted.#out.wait('ready')
    return counted
  }

  get received(): number {
    return Number(/got (\d+)\.\n(?![\s\S]*got \d+\.\n)/.exec(this.#out.text)?.[1] ?? 0)
  }

  /** Neither reset nor closed. */
  get lives(): boolean {
    return !/error|closed/.test(this.#out.text)
  }

  send(bytes: number): void {
    this.#sent += bytes
    this.#program.stdin!.write(`${bytes}\n`)
  }

  /** Sends so many bytes and waits until all that was sent has come back. */
  async echo(what: string, bytes = 1, seconds = 20): Promise<void> {
    this.send(bytes)
    await this.echoed(what, seconds)
  }

  async echoed(what: string, seconds = 20): Promise<void> {
    await until(`${what}: all ${this.#sent} bytes are back`, () => this.received === this.#sent, seconds)
  }

  /** Waits for something to come. */
  async more(what: string, seconds = 20, bytes = 1): Promise<void> {
    const before = this.received
    await until(`${what}: more comes`, () => this.received >= before + bytes, seconds)
  }
}
