/** What the command prints fits its terminal, and says numbers with their units. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { report } from '../../../src/cli/commands/doctor.ts'
import { evidenceParts, overview } from '../../../src/cli/commands/query.ts'
import { fitTable, waitedFor, wrap } from '../../../src/cli/output.ts'
import { buildProgram } from '../../../src/cli/program.ts'
import { joinGroup } from '../../../src/host/control/client.ts'
import { version } from '../../../src/host/version.ts'

const HEAD = ['FLOW', 'SOURCE', 'DESTINATION', 'PEER', 'ACCESS']
const ROWS = [
  [
    'f1',
    '198.19.0.1:40000',
    '[2001:db8:1234:5678:9abc:def0:1234:5678]:443',
    'anchor.example.org',
    'wlan0 (by hand)',
  ],
]

test('a table at 80 columns keeps what matters: less important columns go, then long cells are cut (issue 14, point 5)', () => {
  const wide = fitTable(HEAD, ROWS, { drop: ['PEER', 'SOURCE'], shorten: ['DESTINATION'], width: 200 })
  assert.deepEqual(wide[0]!.split(/ +/), HEAD)
  assert.match(wide[1]!, /5678\]:443 .*anchor\.example\.org .*\(by hand\)$/)
  const fitting = fitTable(HEAD, ROWS, { drop: ['PEER', 'SOURCE'], shorten: ['DESTINATION'], width: 80 })
  assert.deepEqual(fitting[0]!.split(/ +/), ['FLOW', 'DESTINATION', 'ACCESS'])
  const narrow = fitTable(HEAD, ROWS, { drop: ['PEER', 'SOURCE'], shorten: ['DESTINATION'], width: 40 })
  assert.ok(
    narrow.every((line) => line.length <= 40),
    narrow.join('\n'),
  )
  assert.match(narrow[1]!, /^f1 +\[2001\S+… +wlan0 \(by hand\)$/)
})

test('long lines break between words, indented', () => {
  assert.deepEqual(wrap('  one two three', '    ', 9), ['  one two', '    three'])
  assert.deepEqual(wrap('short', '  ', 80), ['short'])
})

test('evidence is said in words with units (issue 14, point 5)', () => {
  const evidence = {
    current: null,
    'wlan0.health': 'up',
    'wlan0.for_ms': 125_000,
    'wlan0.rtt_ms': 12.34,
    'wwan0.health': 'down',
    'wwan0.for_ms': 40,
    'wwan0.rtt_ms': null,
    gap_ms: 3.2,
    static: false,
    flows: 2,
  }
  assert.deepEqual(evidenceParts(evidence), [
    'current unknown',
    'wlan0 up for 2 min, round trip 12 ms',
    'wwan0 down for 40 ms',
    'gap 3.2 ms',
    'static no',
    'flows 2',
  ])
})

test('lists of commands fit 80 columns, with names and summaries side by side (issue 14, point 5)', () => {
  const program = buildProgram()
  for (const each of [program, ...program.commands.filter(({ commands }) => commands.length > 0)]) {
    const lines = each
      .configureOutput({ getOutHelpWidth: () => 80 })
      .helpInformation()
      .split('\n')
    assert.deepEqual(
      lines.filter((line) => line.length > 80),
      [],
    )
  }
})

test('`status` of a daemon that is not ready says what it waits for (issue 14, point 5)', () => {
  const none = { accesses: [], unused: [], peers: [], flows: [], classes: [], handovers: [], pins: [] }
  const base = {
    role: 'host',
    pid: 7,
    version: version(),
    started_at: Date.now(),
    flows_left_out: 0,
    ...none,
  }
  const waiting = 'waiting for an answer from anchor over wlan0'
  assert.equal(overview({ ...base, ready: false, waiting })[1], waiting)
  assert.ok(!overview({ ...base, ready: true }).includes(waiting))
})

test('`status` says that the daemon is of another version than the command', () => {
  const none = { accesses: [], unused: [], peers: [], flows: [], classes: [], handovers: [], pins: [] }
  const base = { role: 'host', pid: 7, started_at: Date.now(), flows_left_out: 0, ready: true, ...none }
  const [first, second] = overview({ ...base, version: '0.0.1' })
  assert.match(first!, /^godwit 0\.0\.1 host/)
  assert.match(second!, /^this command is of version \d\S+; the daemon goes on with its own/)
  assert.ok(
    !overview({ ...base, version: version() })
      .join()
      .includes('this command'),
  )
})

test('what `doctor` finds fits 80 columns; what a lack says is whole (issue 14, point 5)', () => {
  const value = 'no answer: UDP port 51820 is blocked on the way, or the anchor is down'
  const parts = ['anchor', 'router', 'host', 'dime', 'mptcp', 'overlay', 'run', 'demo', 'bench', 'tests']
  const findings = [
    { name: 'UDP in batches (UDP_SEGMENT, UDP_GRO)', ok: true, value: 'usable', parts, required: true },
    { name: 'anchor over wlan0', ok: false, value, parts: ['host'], required: false, mend: 'let UDP pass' },
  ]
  const lines = report(findings, 80)
  assert.ok(
    lines.every((line) => line.length <= 80),
    lines.join('\n'),
  )
  const lack = lines
    .slice(lines.indexOf('') + 1)
    .join(' ')
    .replace(/ +/g, ' ')
  assert.equal(lack, `anchor over wlan0 (for host): ${value}; to mend it: let UDP pass`)
})

test('who may not talk to the daemon is told how to make the group where there is none', () => {
  assert.match(
    joinGroup(false),
    /^sudo groupadd godwit; sudo usermod -aG godwit \$USER, .*restart the daemon$/,
  )
  assert.match(joinGroup(true), /^sudo usermod -aG godwit \$USER, and log in again$/)
})

test('a command that waits longer than a second says on a terminal for what, elsewhere nothing', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const said: string[] = []
  const write = (text: string) => said.push(text)
  const after = async (ms: number, isTTY: boolean) => {
    let resolve = (_: number): void => {}
    const promise = new Promise<number>((done) => {
      resolve = done
    })
    const answer = waitedFor('asking', promise, { isTTY, write })
    t.mock.timers.tick(ms)
    resolve(ms)
    assert.equal(await answer, ms)
  }
  await after(999, true)
  await after(1000, false)
  assert.deepEqual(said, [])
  await after(1000, true)
  assert.deepEqual(said, ['asking …\n'])
})
