/** House point 1: two mechanisms in one daemon. An anchor that is a DIME host, and a router that is a DIME host. */
import assert from 'node:assert/strict'
import { appendFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { addressOf } from '../../../lab/topology.ts'
import type { Status, Why } from '../../../src/host/daemon/daemon.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { daemonStatus } from '../../support/daemon.ts'
import { SERVER, Sites } from '../routing/bed.ts'

usesPrograms('nft', 'ping')
usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const DIME = '[dime]\nenabled = true\n'
/** Answers with the caller's address, and then keeps the connection. */
const ECHO = `require('net').createServer(s=>{s.write(s.remoteAddress);s.on('error',()=>{})}).listen(80,'::',()=>console.log('up'))`
const CALL = (address: string) =>
  `require('net').connect(80,'${address}').once('data',d=>console.log(String(d))).on('error',e=>console.log(e.code))`

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 300; i++) {
    if (await holds()) return
    await delay(100)
  }
  assert.fail(`not within half a minute: ${what}`)
}

test('an anchor that is a DIME host: its hosts are carried, and its own connections are those of DIME', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'godwit-together-'))
  const lab = await Lab.build(topologyNamed('upmt'))
  try {
    const state = (role: string) => ['--state', join(folder, role)]
    const godwit = (role: string, ...args: string[]) =>
      lab.programs.run(role, process.execPath, [GODWIT, ...args, ...state(role)])
    const daemon = async (role: string, ...args: string[]) => {
      const log = join(folder, `${role}.log`)
      const program = await lab.programs.start(role, process.execPath, [GODWIT, ...args, ...state(role)], {
        log,
      })
      await program.expect((line) => line.trim() === 'ready', 30_000)
      return program
    }
    const server = addressOf(lab.spec, 'ch1', 'wan')
    const echo = await lab.programs.start('ch1', process.execPath, ['-e', ECHO], { input: true })
    await echo.expect((line) => line === 'up', 10_000)
    await godwit('an', 'anchor', 'init', '--endpoint', `${addressOf(lab.spec, 'an', 'wan')}:51820`)
    appendFileSync(join(folder, 'an', 'godwit.toml'), DIME)
    await daemon('ch1', 'dime', 'up')
    const anchor = await daemon('an', 'anchor', 'up')
    await godwit('mh', 'join', (await godwit('an', 'anchor', 'invite', 'laptop')).trim())
    await daemon('mh', 'up')
    const own = await lab.programs.start('an', process.execPath, ['-e', CALL(server)], { input: true })
    const carried = await lab.programs.start('mh', process.execPath, ['-e', CALL(server)], { input: true })
    assert.match((await carried.line()) ?? '', new RegExp(`${addressOf(lab.spec, 'an', 'wan')}$`))
    const status = () => daemonStatus(join(folder, 'an'))
    await until('both mechanisms have a flow', async () => {
      const { flows } = await status()
      return ['anchor', 'translation'].every((name) => flows.some(({ mechanism }) => mechanism === name))
    })
    const { role, flows, accesses } = await status()
    assert.equal(role, 'anchor')
    assert.ok(accesses.some(({ name }) => name === 'wan'))
    const dime = flows.find(({ mechanism }) => mechanism === 'translation')!
    const why = JSON.parse(await godwit('an', 'why', dime.id, '--json')) as Why
    const offers = why.offers.map(({ mechanism, carries }) => [mechanism, carries])
    assert.deepEqual(offers, [
      ['anchor', false],
      ['translation', true],
    ])
    const mobile = JSON.parse(await godwit('mh', 'status', '--json')) as Status
    const through = mobile.flows.find(({ dst }) => dst.startsWith(server))!
    // A path is used before its round trip is known.
    await until('the cost of the way is known', async () => {
      const offer = (JSON.parse(await godwit('mh', 'why', through.id, '--json')) as Why).offers[0]!
      assert.equal(offer.carries, true, offer.reason)
      return (offer.cost.rtt_ms ?? 0) > 0
    })
    await own.stop()
    anchor.child.kill('SIGTERM')
    assert.equal(await anchor.ended, 0)
    assert.equal(await lab.programs.run('an', 'nft', ['list', 'tables']), '', 'both are gone')
  } finally {
    await lab.close()
    rmSync(folder, { recursive: true, force: true })
  }
})

test('a router that is a DIME host: sites are joined, and its own connections are those of DIME', async () => {
  const sites = await Sites.start({ ma: DIME, hg: DIME })
  try {
    const home = '192.0.2.2'
    const echo = await sites.lab.programs.start('hg', process.execPath, ['-e', ECHO], { input: true })
    await echo.expect((line) => line === 'up', 10_000)
    const call = await sites.lab.programs.start('ma', process.execPath, ['-e', CALL(home)], { input: true })
    assert.match((await call.line()) ?? '', /192\.168\.11\.2$/)
    assert.match(await sites.said('ta', 'ping', '-c', '2', SERVER[4]), / 0% packet loss/)
    await sites.until('a flow of DIME', async () => {
      const { flows } = await sites.status('ma')
      return flows.some(({ mechanism }) => mechanism === 'translation')
    })
    const { role, flows, classes, peers } = await sites.status('ma')
    assert.equal(role, 'router')
    assert.ok(
      flows.every(({ mechanism }) => mechanism === 'translation'),
      'classes are no flows',
    )
    // What DIME moves are the programs' flows, never the tunnel's own.
    assert.deepEqual(
      flows.map(({ proto }) => proto),
      ['tcp'],
    )
    assert.ok(classes.some(({ id }) => id === 'rest.home'))
    assert.deepEqual([...new Set(peers.map(({ kind }) => kind))].sort(), ['host', 'router'])
    await sites.down('ma', 'SIGKILL')
    assert.match(await sites.godwit('ma', 'router', 'down'), /removed everything of godwit router/)
    assert.equal(await sites.lab.programs.run('ma', 'nft', ['list', 'tables']), '')
  } finally {
    await sites.close()
  }
})
