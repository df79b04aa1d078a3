/** What is removed from connection tracking, and when (translation/kernel/trackers.ts). */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { KernelError } from '../../../src/linux/libc.ts'
import { Trackers } from '../../../src/translation/kernel/trackers.ts'
import { flowId, type Ip, ipOf, type Pair, Tables } from '../../../src/translation/tables.ts'

const [A, B, F] = ['10.1.0.2', '10.2.0.2', '10.3.0.2'] as const

function moving(tracked = true, refuses = false) {
  const tables = new Tables()
  const row = tables.addHost()
  for (const [localPort, protocol, taken] of [
    [1, 6, 'both'],
    [2, 6, undefined],
    [3, 17, 'both'],
  ] as const)
    tables.addSocket({
      id: flowId(protocol, A, localPort, F, 80),
      protocol,
      local: A,
      localPort,
      foreign: F,
      foreignPort: 80,
      hid: row.hid,
      inode: 1,
      ...(taken === undefined ? {} : { taken }),
    })
  const forgotten: string[] = []
  const warnings: string[] = []
  const trackers = new Trackers(
    tables,
    { isTracked: () => tracked },
    () => ({
      forget: ({ localAddress, localPort, remoteAddress, remotePort }) => {
        if (refuses) throw new KernelError('forget', 1)
        forgotten.push(`${ipOf(localAddress)}:${localPort} ${ipOf(remoteAddress)}:${remotePort}`)
        return true
      },
      close: () => {},
    }),
    (text) => warnings.push(text),
  )
  const to = (local: Ip): string[] => {
    const pair: Pair = { local, foreign: F }
    row.current[4] = pair
    trackers.before([row.hid])
    const before = forgotten.splice(0)
    trackers.after()
    return [before.join(), forgotten.splice(0).join()]
  }
  const alone = (from: Ip | undefined, local: Ip): string[] => {
    const pair = (ip: Ip): Pair => ({ local: ip, foreign: F })
    trackers.diverted([...tables.flows(row.hid)], from === undefined ? undefined : pair(from), pair(local))
    return forgotten.splice(0).filter((each) => each.includes(':1 '))
  }
  return { to, alone, row, warnings }
}

test('issue 10, C 2: of proven TCP connections the pair that they leave is forgotten, and an earlier one before they return', () => {
  const { to } = moving()
  assert.deepEqual(to(A), ['', ''], 'greeted: nothing has moved')
  assert.deepEqual(to(B), ['', `${A}:1 ${F}:80`])
  assert.deepEqual(to(A), [`${A}:1 ${F}:80`, `${B}:1 ${F}:80`])
  assert.deepEqual(to(A), ['', ''])
})

test('issue 10, C 2: of single flows the pair that they leave is forgotten and the one that they come to, whatever others there are', () => {
  const { alone, row } = moving()
  for (let i = 0; i < 64; i++) row.accepted.set(`${B} ${i}`, { local: B, foreign: `10.9.0.${i}` })
  assert.deepEqual(alone(A, B), [`${A}:1 ${F}:80`, `${B}:1 ${F}:80`])
  assert.deepEqual(alone(undefined, B), [`${B}:1 ${F}:80`])
})

test('issue 10, C 2: nothing is asked where nothing is tracked, and never again where the kernel refuses', () => {
  const idle = moving(false)
  idle.to(A)
  assert.deepEqual(idle.to(B), ['', ''])
  const { to, warnings } = moving(true, true)
  for (const local of [A, B, A, B]) to(local)
  assert.equal(warnings.length, 1)
})
