/** What the death of a daemon costs the connections that it has moved: nothing, the maps are the kernel's. */
import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import { Bed, until } from './bed.ts'
import { lines } from './flows.ts'

let bed: Bed
beforeEach(() => {
  bed = new Bed()
})
afterEach(() => bed.close())

/** Numbered datagrams in both directions, one every 5 ms; `mark` prints the next number, `stop` ends them, `report` counts. */
const NUMBERS = `
  const socket = require('node:dgram').createSocket('udp4')
  const [role] = process.argv.slice(1)
  const seen = new Set(), got = new Set()
  let next = 0, timer, to
  const say = (line) => console.log(JSON.stringify(line))
  socket.on('error', () => {}).on('message', (bytes, from) => {
    if (role === 'server' && to === undefined) { to = from; start() }
    got.add(bytes.readUInt32BE(0))
  })
  const start = () => {
    timer = setInterval(() => {
      const bytes = Buffer.alloc(100)
      bytes.writeUInt32BE(next++)
      socket.send(bytes, to.port, to.address, () => {})
    }, 5)
  }
  socket.bind(role === 'server' ? 5005 : 0, () => {
    if (role === 'client') { to = { port: 5005, address: '10.3.0.2' }; start() }
    say({ ready: true })
  })
  require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
    const [word, a, b] = line.split(' ')
    if (word === 'mark') say({ [a]: next })
    if (word === 'stop') { clearInterval(timer); say({ last: next }) }
    if (word === 'count') { let n = 0; for (let i = Number(a); i < Number(b); i++) if (got.has(i)) n++; say({ arrived: n, id: Math.random() }) }
  })`

interface End {
  say(line: string): void
  number(key: string): Promise<number>
}

async function end(name: 'm' | 'c', role: string): Promise<End> {
  const child = bed.spawn(name, process.execPath, ['-e', NUMBERS, role], 'pipe')
  const out = lines(child)
  await out.wait('ready')
  return {
    say: (line) => child.stdin!.write(`${line}\n`),
    number: async (key) => (JSON.parse(await out.wait(`"${key}"`)) as Record<string, number>)[key]!,
  }
}

/** Datagrams that sockets of a host could not take because the host was busy: not the network's doing. */
function overflowed(name: 'm' | 'c'): number {
  const [names = '', values = ''] = bed
    .run(name, 'cat', '/proc/net/snmp')
    .split('\n')
    .filter((line) => line.startsWith('Udp:'))
  return Number(values.split(' ')[names.split(' ').indexOf('RcvbufErrors')])
}

test('DI-12: both daemons are killed and started again in mid-transfer: every datagram of that time arrives, both ways', async () => {
  const server = await end('c', 'server')
  await bed.daemon('c')
  await bed.daemon('m')
  const client = await end('m', 'client')
  await bed.greeted()
  bed.up(2)
  bed.down(1)
  for (const [name, which] of [
    ['m', (s: { wire_local: string }) => s.wire_local],
    ['c', (s: { wire: string }) => s.wire],
  ] as const)
    await until(
      `${name} has moved`,
      async () => (await bed.sockets(name)).some((s) => which(s) === '10.2.0.2'),
      60,
    )
  const ends = [client, server] as const
  const next = async (key: string): Promise<number[]> => {
    for (const each of ends) each.say(`mark ${key}`)
    return Promise.all(ends.map((each) => each.number(key)))
  }
  let marks = 0
  /** Until both have sent so many more. */
  const sent = async (more: number): Promise<void> => {
    const start = await next(`wait${marks++}`)
    await until(
      'datagrams are sent',
      async () => (await next(`wait${marks++}`)).every((n, i) => n > start[i]! + more),
      60,
    )
  }
  await sent(20) // what was under way during the move has arrived
  const first = await next('first')
  await bed.end('m', 'SIGKILL')
  await bed.end('c', 'SIGKILL')
  await sent(100)
  await bed.daemon('m')
  await bed.daemon('c')
  await bed.greeted()
  await sent(100)
  const last = await next('last_of_these')
  await sent(20)
  for (const [i, receiver] of [server, client].entries()) {
    receiver.say(`count ${first[i]} ${last[i]}`)
    const arrived = await receiver.number('arrived')
    const missing = last[i]! - first[i]! - arrived - overflowed(i === 0 ? 'c' : 'm')
    assert.ok(last[i]! - first[i]! > 200)
    assert.ok(missing <= 0, `${missing} of ${last[i]! - first[i]!} did not arrive`)
  }
  assert.ok((await bed.sockets('m')).some((s) => s.wire_local === '10.2.0.2'))
})
