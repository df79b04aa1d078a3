/**
 * Issue 10 B1: an anchor on a machine whose packet filter drops what is forwarded: its hosts' traffic passes all the same,
 * also when the other program has loaded its rules anew, and the rules of others are before, during and after the same.
 */
import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { addressOf } from '../../../lab/topology.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { FILTERS, LIST_FILTERS } from '../../netns/host/filters.ts'

usesPrograms('curl', 'iptables', 'nft')
usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
let lab: Lab
let folder: string
let host: Program
const state = (role: string) => join(folder, role)
const log = (role: string) => join(folder, `${role}.log`)
const run = (role: string, command: string, ...args: string[]) => lab.programs.run(role, command, args)
const godwit = (role: string, ...args: string[]) =>
  run(role, process.execPath, GODWIT, ...args, '--state', state(role))

async function daemon(role: 'mh' | 'an'): Promise<Program> {
  const args = [GODWIT, ...(role === 'an' ? ['anchor'] : []), 'up', '--state', state(role)]
  const program = await lab.programs.start(role, process.execPath, args, { log: log(role) })
  await program.expect((line) => line.trim() === 'ready', 30_000)
  return program
}

async function end(program: Program, signal: NodeJS.Signals): Promise<void> {
  program.child.kill(signal)
  await program.ended
}

const passes = async (family: 4 | 6): Promise<boolean> => {
  const to = addressOf(lab.spec, 'ch1', 'wan', family)
  const url = family === 4 ? `http://${to}/` : `http://[${to}]/`
  try {
    return (await run('mh', 'curl', '-s', '-m', '2', url)) === addressOf(lab.spec, 'an', 'wan', family)
  } catch {
    return false
  }
}

/** Through the tunnel: the address that the anchor masquerades is what the server sees. */
async function untilPasses(what: string): Promise<void> {
  for (const family of [4, 6] as const) {
    let works = false
    for (let i = 0; i < 20 && !works; i++) works = (await passes(family)) || (await delay(250, false))
    assert.ok(works, `IPv${family} passes ${what}\n${readFileSync(log('an'), 'utf8').slice(-1500)}`)
  }
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-firewalls-'))
  lab = await Lab.build(topologyNamed('upmt'))
  const answer = `require('http').createServer((q,r)=>r.end(q.socket.remoteAddress.replace('::ffff:',''))).listen(80,'::',()=>console.log('up'))`
  const server = await lab.programs.start('ch1', process.execPath, ['-e', answer], { input: true })
  await server.expect((line) => line === 'up', 10_000)
  await godwit('an', 'anchor', 'init', '--endpoint', `${addressOf(lab.spec, 'an', 'wan')}:51820`)
  await godwit('mh', 'join', (await godwit('an', 'anchor', 'invite', 'laptop')).trim())
  const anchor = await daemon('an')
  host = await daemon('mh')
  await untilPasses('without a filter')
  await end(anchor, 'SIGTERM')
})

after(async () => {
  await end(host, 'SIGTERM')
  await lab.close()
  rmSync(folder, { recursive: true })
})

describe('an anchor forwards past the packet filters of others', () => {
  for (const [index, filter] of FILTERS.entries()) {
    test(`issue 10 B1: ${filter.name}`, async () => {
      const own = join(folder, `filter${index}`)
      mkdirSync(own)
      const shell = (script: string) => run('an', 'sh', '-c', `FOLDER=${own}\n${script}`)
      const rules = () => shell(LIST_FILTERS)
      await shell(filter.make)
      try {
        let others = await rules()
        for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
          const anchor = await daemon('an')
          try {
            await untilPasses(`beside ${filter.name}`)
            assert.equal(await rules(), others, 'during')
            if (signal === 'SIGTERM') {
              await shell(filter.reload)
              await untilPasses('after a reload')
            }
          } finally {
            await end(anchor, signal)
          }
          if (signal === 'SIGKILL') await godwit('an', 'down')
          if (signal === 'SIGTERM') others = await rules()
          else assert.equal(await rules(), others, signal)
          assert.doesNotMatch(await shell('nft list ruleset; iptables-legacy-save 2>&1'), /godwit/, signal)
        }
      } finally {
        await shell(filter.undo)
      }
    })
  }

  test('issue 10 B1: `firewall = "leave"`, and a table that only its owner may change: the chain is named with the mend', async () => {
    const config = join(state('an'), 'godwit.toml')
    const before = readFileSync(config, 'utf8')
    writeFileSync(config, before.replace('[anchor]', '[anchor]\nfirewall = "leave"'))
    await run('an', 'iptables', '-P', 'FORWARD', 'DROP')
    writeFileSync(log('an'), '')
    let anchor = await daemon('an')
    assert.equal(await passes(4), false)
    const said = readFileSync(log('an'), 'utf8')
    const mend =
      /iptables-nft FORWARD \(policy drop\) drops forwarded packets; to allow them: (.*)$/m.exec(said)?.[1] ??
      said
    await run('an', 'sh', '-ec', mend.replaceAll('sudo ', ''))
    await untilPasses('after the command that was named')
    await end(anchor, 'SIGTERM')
    await run('an', 'sh', '-ec', 'iptables -F; iptables -P FORWARD ACCEPT')
    writeFileSync(config, before)

    const owner = await lab.programs.start('an', 'nft', ['-i'], { input: true })
    owner.child.stdin!.write(
      'add table inet owned { flags owner; }\nadd chain inet owned forward { type filter hook forward priority 0; policy drop; }\n',
    )
    for (let i = 0; i < 40 && !(await run('an', 'nft', 'list', 'tables')).includes('owned'); i++)
      await delay(50)
    anchor = await daemon('an')
    assert.match(
      readFileSync(log('an'), 'utf8'),
      /nft chain inet owned forward \(policy drop\) drops forwarded packets, and cannot be changed \(.*\); to allow them: sudo nft 'add rule inet owned forward/,
    )
    // It ends with 1 where something is to be mended.
    const doctor = JSON.parse(
      await run('an', 'sh', '-c', `${process.execPath} ${GODWIT} doctor --json || true`),
    ) as {
      findings: { name: string; ok: boolean; value: string; mend: string }[]
    }
    const finding = doctor.findings.find(({ name }) => name === 'forwarding for gwan0')!
    assert.equal(finding.ok, false)
    assert.match(finding.value, /nft chain inet owned forward \(policy drop\) drops it/)
    await end(anchor, 'SIGTERM')
    await owner.stop()
  })
})
