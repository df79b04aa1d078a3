/**
 * The proxy in front of unmodified programs, against the kernel's own MPTCP: transfers go from one access to the other, by
 * break, by silence and by hand, and what the server's kernel got was never wrong.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, before, test } from 'node:test'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Bed, until } from './bed.ts'
import { digestOf } from './server.ts'
import { login, sshSkip } from './ssh.ts'
import { Transfers } from './transfers.ts'

usesPrograms('curl', 'mptcpize', 'nft', 'ss')

const BYTES = 16_000_000
let bed: Bed
let transfers: Transfers
/** What the kernel held before the daemon. */
let untouched: string

before(async () => {
  bed = new Bed()
  transfers = new Transfers(bed, 'm')
  untouched = bed.kernelState()
  await bed.serve()
  await bed.daemon('m')
})

after(async () => {
  await bed.close()
})

const download = (port = 80): Promise<string> => transfers.download(port, BYTES)

async function ended(): Promise<void> {
  await until('the connection is closed', async () => (await bed.connections()).length === 0)
}

for (const direction of ['get', 'put'] as const)
  for (const host of ['10.3.0.2', '[fd00:3::2]'])
    test(`MP-10, MP-56: curl ${direction} over ${host} goes on when its access loses its address`, async () => {
      const endless = transfers.endless(direction, host)
      const { id, active, subflows } = await bed.underWay(2_000_000)
      assert.equal(subflows.find((each) => each.id === active)!.access, 'acc1')
      bed.down(1)
      await transfers.carriesMore(id, 'acc2', 'the other access')
      await endless.finish()
      await ended()
      bed.up(1)
      await until('acc1 is back', async () =>
        (await bed.status()).accesses.every(({ state }) => state === 'up'),
      )
      bed.noFaults()
    })

for (const direction of ['get', 'put'] as const)
  test(`curl ${direction} goes on when its access goes silent`, async () => {
    const endless = transfers.endless(direction)
    const { id, active, subflows } = await bed.underWay(2_000_000)
    assert.equal(subflows.find((each) => each.id === active)!.access, 'acc1')
    bed.silence(1, true)
    try {
      await transfers.carriesMore(id, 'acc2', 'the other access')
      await endless.finish()
      const handover = (await bed.status()).handovers.at(-1)
      assert.match(handover!.cause, /acc1 does not answer/)
      await ended()
    } finally {
      bed.silence(1, false)
    }
    bed.noFaults()
  })

for (const direction of ['get', 'put'] as const)
  test(`MP-53, MP-55: curl ${direction} is handed over by hand, back and forth; tshark reads every packet`, async () => {
    const wrong = await bed.captured(async () => {
      const endless = transfers.endless(direction)
      const { id } = await bed.underWay(1_000_000)
      for (const access of ['acc2', 'acc1', 'acc2']) {
        await bed.post('/v1/mptcp/handover', { connection: id, access })
        await transfers.carriesMore(id, access, access, true)
      }
      await endless.finish()
      await ended()
    })
    assert.equal(wrong, '')
    bed.noFaults()
  })

test('MP-22: a server without MPTCP is served by plain TCP, and nothing is left of the attempt', async () => {
  assert.equal(await download(81), digestOf(BYTES))
  assert.deepEqual(await bed.connections(), [])
  assert.doesNotMatch(bed.run('m', 'nft', 'list', 'ruleset'), /elements.* 81 /)
})

test('a program that speaks MPTCP itself is left alone', async () => {
  const before = bed.counters().get('MPTcpExtMPCapableSYNRX')!
  const out = bed.run('m', 'mptcpize', 'run', 'curl', '-s', `http://10.3.0.2/${1000}`)
  assert.equal(out.length > 0, true)
  assert.equal(bed.counters().get('MPTcpExtMPCapableSYNRX'), before + 1)
  assert.deepEqual(await bed.connections(), [])
})

test('P18: a program that is killed resets the connection at the server too', async () => {
  const curl = bed.spawn('m', 'curl', '-sg', '--limit-rate', '500K', `http://10.3.0.2/${BYTES}`)
  await bed.underWay(200_000)
  curl.kill('SIGKILL')
  await ended()
  await until(
    'the server has no connection',
    () => !/ESTAB/.test(bed.run('c', 'ss', '-tnH', 'sport', '=', ':80')),
  )
  bed.noFaults()
})

test('MP-8: between two proxies neither program nor kernel speaks MPTCP, and a transfer moves', async () => {
  await bed.daemon('c')
  for (const direction of ['get', 'put'] as const) {
    const endless = transfers.endless(direction, '10.3.0.2:81')
    const { id } = await bed.underWay(2_000_000)
    assert.deepEqual(
      (await bed.connections('c')).filter(({ state }) => state === 'established').map(({ role }) => role),
      ['server'],
    )
    await bed.post('/v1/mptcp/handover', { connection: id, access: 'acc2' })
    bed.down(2)
    await transfers.carriesMore(id, 'acc1', 'the first access')
    await endless.finish()
    bed.up(2)
    await ended()
  }
  await bed.end('c')
})

test('a session of ssh goes on, in the shell that it began in', { skip: sshSkip() }, async () => {
  const { ssh, say, hear } = await login(bed)
  say('echo begun as $$')
  const shell = (await hear(/begun as \d+\n/)).match(/\d+/)![0]
  await bed.underWay(100)
  for (const n of [1, 2] as const) {
    bed.down(n)
    say(`echo now in $$ after ${n}`)
    await hear(new RegExp(`in ${shell} after ${n}\n`))
    bed.up(n)
    await bed.underWay(100)
  }
  say('i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done; echo all')
  const numbers = [...(await hear(/all\n$/)).matchAll(/^line (\d+)$/gm)].map((match) => Number(match[1]))
  assert.deepEqual(
    numbers,
    Array.from({ length: 20_000 }, (_, i) => i + 1),
  )
  const end = once(ssh, 'exit')
  say('exit 7')
  assert.deepEqual((await end)[0], 7, 'its end is an ordinary one')
  await ended()
  bed.noFaults()
})

test('plain connections go on without the daemon, and new ones are plain; a new daemon cleans up and serves', async () => {
  const plain = download(81)
  await until('curl reads', () => /ESTAB/.test(bed.run('m', 'ss', '-tnH', 'dport', '=', ':81')))
  await bed.end('m', 'SIGKILL')
  assert.equal(await download(), digestOf(BYTES))
  assert.equal(await plain, digestOf(BYTES))
  await bed.daemon('m')
  const again = download()
  await bed.underWay(1_000_000)
  assert.equal(await again, digestOf(BYTES))
})

test('MP-56: without a subflow that stands by, one is begun when the access is lost, and the peer hears what is lost', async () => {
  await bed.end('m')
  await bed.daemon('m', 'standby = false')
  const endless = transfers.endless('get')
  let id = ''
  await until('a connection has carried something', async () => {
    const found = (await bed.connections()).find((each) => each.received_bytes > 1_000_000)
    id = found?.id ?? ''
    return found?.state === 'established'
  })
  bed.down(1)
  await transfers.carriesMore(id, 'acc2', 'the other access')
  await endless.finish()
  await ended()
  bed.up(1)
  bed.noFaults()
})

test('the daemon takes its rules and addresses away, and the server’s kernel found nothing wrong in all this', async () => {
  bed.noFaults()
  await bed.end('m')
  assert.equal(bed.kernelState(), untouched)
})
