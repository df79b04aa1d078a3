/** Transfers of curl between hosts of the bed, every byte compared, and who carries them. */
import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { pipeline, Readable } from 'node:stream'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { type Bed, type Name, until } from './bed.ts'
import { digestOf, pieces } from './server.ts'

usesPrograms('curl')

/** So slow that there is time for a move. */
const RATE = '6M'
/** What is under way arrives within this, stalls included; then the transfer has failed (ms). */
const FINISH_MS = 60_000

export class Transfers {
  readonly #bed: Bed
  readonly #host: Name
  readonly #far: Name
  readonly #running = new Set<ChildProcess>()

  /** `host`: where curl runs; `far`: where the server does. */
  constructor(bed: Bed, host: Name, far: Name = 'c') {
    this.#bed = bed
    this.#host = host
    this.#far = far
  }

  /** A download; the answer is the SHA-256 of what arrived. */
  download(port: number, bytes: number): Promise<string> {
    const curl = this.#bed.spawn(
      this.#host,
      'curl',
      '-sg',
      '--limit-rate',
      RATE,
      `http://10.3.0.2:${port}/${bytes}`,
    )
    const hash = createHash('sha256')
    curl.stdout!.on('data', (piece: Buffer) => hash.update(piece))
    return once(curl, 'close').then(([status]) => {
      assert.equal(status, 0, `curl ended with ${status}`)
      return hash.digest('hex')
    })
  }

  /**
   * A transfer that lasts until it is finished. One of a fixed length is over on the wire as soon as the receiver's buffer has it
   * (32 MB where the kernel allows that), however slowly the program reads. `paced`: a download whose server is slow, so that the
   * receiver's window stays open. `before`: what curl is started with.
   */
  endless(
    direction: 'get' | 'put' | 'paced',
    server = '10.3.0.2',
    before: readonly string[] = [],
  ): { finish(): Promise<void>; stall(on: boolean): void } {
    const way = direction === 'put' ? 'put' : 'get'
    const path = direction === 'paced' ? 'paced' : 'endless'
    const limit = direction === 'paced' ? [] : ['--limit-rate', RATE]
    const what = way === 'get' ? [`http://${server}/${path}`] : ['-T', '-', `http://${server}/put`]
    const [program, ...args] = [...before, 'curl', '-sgN', ...limit, ...what]
    const curl = this.#bed.spawn(this.#host, program!, ...args)
    const sent = createHash('sha256')
    const received = createHash('sha256')
    let length = 0
    let text = ''
    curl.stdout!.on('data', (bytes: Buffer) => {
      received.update(bytes)
      length += bytes.length
      if (way === 'put') text += bytes
    })
    let enough = false
    function* upload() {
      for (const piece of pieces(Number.POSITIVE_INFINITY)) {
        if (enough) return
        sent.update(piece)
        yield piece
      }
    }
    if (way === 'put') pipeline(Readable.from(upload()), curl.stdin!, () => {})
    this.#running.add(curl)
    const closed = once(curl, 'close').finally(() => this.#running.delete(curl))
    return {
      /** The program reads nothing, until it does again. */
      stall: (on) => void curl.kill(on ? 'SIGSTOP' : 'SIGCONT'),
      finish: async () => {
        enough = true
        if (way === 'get') this.#bed.run(this.#far, 'curl', '-sg', `http://${server}/enough`)
        const late = setTimeout(() => curl.kill('SIGKILL'), FINISH_MS)
        const [status] = await closed.finally(() => clearTimeout(late))
        const seen = status === 0 ? '' : JSON.stringify(await this.#bed.connections())
        assert.equal(status, 0, `curl ended with ${status} after ${length} bytes: ${seen}`)
        if (way === 'get') assert.equal(received.digest('hex'), digestOf(length))
        else assert.equal(text, sent.digest('hex'))
      },
    }
  }

  /** Ends those that a test which failed has left, so that the next one is alone. */
  abandon(): void {
    for (const curl of this.#running) curl.kill('SIGKILL')
  }

  /** Waits until more of a connection's data have arrived, whatever access they took. */
  async goesOn(id: string): Promise<void> {
    const arrived = async () => {
      const now = (await this.#bed.connections()).find((each) => each.id === id)
      assert.ok(now !== undefined, `${id} has ended`)
      return now.acknowledged_bytes + now.received_bytes
    }
    const before = await arrived()
    await until(`${id} goes on`, async () => (await arrived()) > before + 100_000)
  }

  /** Waits until a connection's data go over an access; `already`: they do from the beginning. */
  async carriesMore(id: string, access: string, what: string, already = false): Promise<void> {
    let before: number | undefined
    await until(`${what} carries more`, async () => {
      const now = (await this.#bed.connections()).find((each) => each.id === id)
      const subflow = now?.subflows.find((each) => each.id === now.active)
      if (already || now === undefined || before !== undefined)
        assert.equal(subflow?.access, access, `who carries it: ${JSON.stringify(now)}`)
      if (subflow?.access !== access) return false
      const bytes = subflow.sent_bytes + subflow.received_bytes
      before ??= bytes
      return bytes > before + 100_000
    })
  }
}
