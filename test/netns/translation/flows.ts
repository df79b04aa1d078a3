/** Programs with connections, for tests of what becomes of these. */
import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { type Bed, until } from './bed.ts'

const SESSION = fileURLToPath(new URL('../../../lab/programs/session.js', import.meta.url))

/** Reads what a program prints; `wait` gives the first line that has `match`, whenever it comes. */
export function lines(child: ChildProcess): { wait(match: string): Promise<string>; readonly text: string } {
  let text = ''
  child.stdout!.on('data', (bytes) => {
    text += bytes
  })
  return {
    get text() {
      return text
    },
    wait: async (match) => {
      let found = ''
      await until(
        `a line with ${match}`,
        () => {
          found = text.split('\n').find((line) => line.includes(match)) ?? ''
          return found !== ''
        },
        60,
      )
      return found
    },
  }
}

export interface SessionReport {
  readonly keys: number
  readonly echoes: number
  readonly broken: boolean
  readonly local: string
}

/** An echo session over TCP, a key every 20 ms; the function returned ends it when the last echo is there. */
export async function startSession(bed: Bed, to: string): Promise<() => Promise<SessionReport>> {
  const start = async (name: 'm' | 'c', init: object): Promise<[ChildProcess, ReturnType<typeof lines>]> => {
    const program = bed.spawn(
      name,
      process.execPath,
      [SESSION, JSON.stringify({ port: 22, ...init })],
      'pipe',
    )
    const out = lines(program)
    await out.wait('ready')
    return [program, out]
  }
  await start('c', { role: 'server' })
  const [client, out] = await start('m', { role: 'client', host: to, intervalMs: 20 })
  return async () => {
    client.stdin!.write('finish\n')
    return JSON.parse(await out.wait('echoes')) as SessionReport
  }
}

export function echoed({ broken, echoes, keys }: SessionReport): void {
  assert.ok(!broken && echoes === keys, `${echoes} of ${keys} echoed`)
}

/** A connection from m to c that says something all the time. */
export async function chatter(bed: Bed, to = '10.3.0.2'): Promise<void> {
  const start = async (name: 'm' | 'c', init: object): Promise<void> => {
    const program = bed.spawn(
      name,
      process.execPath,
      [SESSION, JSON.stringify({ port: 22, ...init })],
      'pipe',
    )
    await lines(program).wait('ready')
  }
  await start('c', { role: 'server' })
  await start('m', { role: 'client', host: to, intervalMs: 50 })
}

/** A server that sends back what it gets on port 80 of c, and a client that says what it is told and what comes back. */
export const ECHO_SERVER = `require('node:net').createServer((s) => { s.on('error', () => {}); s.pipe(s) }).listen(80, '::', () => console.log('ready'))`
export const ECHO_CLIENT = `
  const s = require('node:net').connect({ host: '10.3.0.2', port: 80, ...JSON.parse(process.argv[1]) }, () => console.log('ready ' + s.localPort))
  s.on('data', (b) => console.log('echo ' + b)).on('error', (e) => console.log('error ' + e.code))
  process.stdin.on('data', (b) => s.write(b))`
