/**
 * Issue 10 A1, B1, C4 with a real dockerd: an anchor, a laptop and hosts of DIME that publish a port of a container, also when
 * Docker is restarted meanwhile and writes its rules anew.
 */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { namespaceOf } from '../../../lab/topology.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { ANCHOR, LaptopBed, OUTSIDE, SERVER, until } from '../../netns/anchoring/laptop-bed.ts'
import { LIST_FILTERS } from '../../netns/host/filters.ts'
import { Bed } from '../../netns/translation/bed.ts'
import { Counted, serve } from '../../netns/translation/counted.ts'
import { openPublished, ownMoves } from '../../netns/translation/published.ts'
import { Docker, dockerSkip } from '../../support/docker.ts'

usesPrograms('curl', 'ip', 'iptables', 'nft')
usePrivateNames()

const folder = mkdtempSync(join(tmpdir(), 'godwit-docker-'))
after(() => rmSync(folder, { recursive: true, force: true }))
const skip = await dockerSkip(folder)

const PORT = 8081
/** Of a container without a network of its own. */
const HOST_PORT = 8083
/** `/go?URL`: what a server says to the container. */
const web = (port: number) => `
  const http = require('node:http')
  http.createServer((q, r) => {
    const url = q.url.startsWith('/go?') && q.url.slice(4)
    if (!url) return r.end('container')
    http.get(url, (a) => a.pipe(r)).on('error', (e) => r.end(e.code))
  }).listen(${port}, '::')`
/** Sends back what it gets. */
const ECHO = `require('node:net').createServer((s) => { s.on('error', () => {}); s.pipe(s) }).listen(80, '::')`
/** Sends a byte each 20 ms. */
const TICKS = `require('node:http').createServer((q, r) => { r.write('.'); setInterval(() => r.write('.'), 20) }).listen(8090, '::', () => console.log('up'))`

describe('a real dockerd', { skip }, () => {
  test('issue 10 B1: on an anchor: hosts’ packets pass, before and after a restart of Docker; published ports work; nothing is left', async () => {
    const bed = await LaptopBed.build(undefined, '', 4)
    const docker = new Docker(namespaceOf('an'), join(folder, 'an'))
    // Docker makes its chains in another order at each start.
    const rules = async () => (await bed.shell('an', LIST_FILTERS)).split('\n').sort().join('\n')
    const published = (role: string) => bed.ask(role, `http://${ANCHOR}:${PORT}/`)
    const works = async (when: string) => {
      await until(`the laptop's packets pass ${when}`, async () => (await bed.seen('-m', '2')) === ANCHOR)
      await until(
        `the published port is reached ${when}`,
        async () => (await published('ch2')) === 'container',
      )
      assert.equal(await published('mh'), 'container', `through the tunnel ${when}`)
      assert.equal(await bed.ask('ch2', `http://${ANCHOR}:${PORT}/go?http://${SERVER}/`), ANCHOR, when)
    }
    const end = async (signal: NodeJS.Signals) => {
      bed.anchor.child.kill(signal)
      await bed.anchor.ended
      if (signal === 'SIGKILL') await bed.godwit('an', 'down')
    }
    try {
      await bed.up()
      await end('SIGTERM')
      await docker.start()
      await docker.run({ name: 'web', port: PORT, script: web(80) })
      const before = await rules()
      assert.match(await bed.shell('an', 'iptables-save'), /:FORWARD DROP/)
      for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
        bed.anchor = await bed.daemon('an')
        await works('beside Docker')
        assert.equal(await rules(), before, 'during')
        assert.match(await bed.shell('an', 'iptables-save'), /-A FORWARD -i gwan0 .*"godwit main" -j ACCEPT/)
        await docker.restart()
        await works('when Docker was restarted')
        await end(signal)
        assert.doesNotMatch(await bed.shell('an', 'nft list ruleset; iptables-save'), /godwit|gwan0/, signal)
        assert.equal(await rules(), before, signal)
        assert.equal(await published('ch2'), 'container', signal)
      }
    } finally {
      await docker.close()
      await bed.close()
    }
  })

  test('issue 10 B1: Docker that starts beside a running anchor: both work, and its containers are reached when the anchor has ended', async () => {
    const bed = await LaptopBed.build(undefined, '', 4)
    const docker = new Docker(namespaceOf('an'), join(folder, 'later'))
    const published = () => bed.ask('ch2', `http://${ANCHOR}:${PORT}/`)
    try {
      await bed.up()
      await docker.start()
      await docker.run({ name: 'web', port: PORT, script: web(80) })
      await until('the published port is reached', async () => (await published()) === 'container')
      await until("the laptop's packets pass", async () => (await bed.seen('-m', '2')) === ANCHOR)
      await bed.anchor.stop()
      const reached = `http://${ANCHOR}:${PORT}/go?http://${SERVER}/`
      assert.equal(await bed.ask('ch2', reached), ANCHOR, 'what the container asks for comes')
    } finally {
      await docker.close()
      await bed.close()
    }
  })

  test('issue 10 A1: on a laptop: a published port is reached from outside through each access; what containers open goes through the tunnel and survives a move', async () => {
    const bed = await LaptopBed.build(undefined, '', 4)
    const docker = new Docker(namespaceOf('mh'), join(folder, 'mh'))
    const ticking = await bed.lab.programs.start('ch1', process.execPath, ['-e', TICKS])
    await ticking.expect((line) => line === 'up', 10_000)
    const works = async (when: string) => {
      for (const port of [PORT, HOST_PORT]) {
        for (const [name, address] of Object.entries(OUTSIDE))
          await until(
            `${name}: port ${port} is reached ${when}`,
            async () => (await bed.ask('ch2', `http://${address}:${port}/`)) === 'container',
          )
        await until(
          `what the container opens goes through the tunnel ${when}`,
          async () =>
            (await bed.ask('ch2', `http://${OUTSIDE.acc1}:${port}/go?http://${SERVER}/`)) === ANCHOR,
        )
      }
    }
    try {
      await bed.leadToLaptop(PORT, HOST_PORT)
      await docker.start()
      await docker.run({ name: 'web', port: PORT, script: web(80) })
      await docker.run({ name: 'host', script: web(HOST_PORT) })
      const before = await bed.shell('mh', LIST_FILTERS)
      await bed.up()
      await works('when Docker was there first')
      assert.equal(await bed.shell('mh', LIST_FILTERS), before)
      // A connection of the container's, watched from the laptop itself.
      const url = `http://127.0.0.1:${PORT}/go?http://${SERVER}:8090/`
      const download = await bed.lab.programs.start('mh', 'sh', [
        '-c',
        `curl -sN ${url} | while dd bs=1 count=10 status=none > /dev/null; do echo more; done`,
      ])
      const goesOn = async () => {
        for (let i = 0; i < 5; i++) await download.expect((line) => line === 'more', 10_000)
      }
      await goesOn()
      for (const access of ['acc2', 'acc1']) {
        await bed.godwit('mh', 'move', 'all', access)
        await until(`everything is on ${access}`, async () =>
          (await bed.status()).flows.every((flow) => flow.access === access),
        )
        for (let i = 0; i < 4; i++) await goesOn()
        assert.ok(download.running)
      }
      await works('after moves')
      await docker.restart()
      await works('when Docker was restarted')
      await bed.down()
      await bed.up()
      await works('when godwit was restarted')
    } finally {
      await docker.close()
      await bed.close()
    }
  })

  for (const at of ['m', 'c'] as const)
    test(`issue 10 C4: DIME with Docker at ${at === 'm' ? 'the host that moves' : 'the other host'}: its own connections move, those to a published port go on where they are`, async () => {
      const bed = new Bed()
      const docker = new Docker(bed.netns(at), join(folder, `dime-${at}`))
      try {
        await docker.start()
        await docker.run({ name: 'echo', port: PORT, script: ECHO })
        await serve(bed, 80)
        const own = await Counted.open(bed, 'm', '10.3.0.2', 80)
        const container = await openPublished(bed, at, PORT)
        await container.echo('at first')
        for (const name of ['c', 'm'] as const) await bed.daemon(name)
        await bed.greeted()
        await container.echo('both run DIME')
        await ownMoves(bed, own, container)
        await docker.restart()
        await own.echo('Docker was restarted', 10_000)
        await bed.move('m', 'all', 'acc1')
        await bed.on(1)
        await own.echo('moved back', 10_000)
        const again = await openPublished(bed, at, PORT)
        await again.echo('a new connection to the container')
      } finally {
        await docker.close()
        await bed.close()
      }
    })
})
