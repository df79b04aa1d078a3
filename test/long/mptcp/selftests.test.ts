/**
 * The kernel's own `mptcp_connect` (tools/testing/selftests/net/mptcp, from Debian's linux-source, built in a scratch folder) with the
 * proxy between: every pair of TCP and MPTCP, each way of writing, both families; what each end reads is what the other wrote.
 */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { usesPrograms } from '../../../src/linux/packages.ts'
import { Bed, type Name, until } from '../../netns/mptcp/bed.ts'

usesPrograms('dpkg-deb', 'gcc', 'ss', 'xz')

const PACKAGE = 'linux-source-6.1'
const SOURCE = `${PACKAGE}/tools/testing/selftests/net/mptcp/mptcp_connect.c`
const BYTES = 3_000_000
const PORT = '10000'
const folder = mkdtempSync(join(tmpdir(), 'mptcp-connect-'))
const program = join(folder, 'mptcp_connect')
const files = { client: join(folder, 'client'), server: join(folder, 'server') }
let bed: Bed

/** Why it cannot be built here; undefined when it is. */
function build(): string | undefined {
  try {
    const shell = (script: string) => execFileSync('sh', ['-ec', script], { cwd: folder, stdio: 'pipe' })
    shell(`apt-get -qq -o APT::Sandbox::User=root download ${PACKAGE}`)
    shell(
      `dpkg-deb --fsys-tarfile ${PACKAGE}_*.deb | tar -xO ./usr/src/${PACKAGE}.tar.xz | tar -xJ --occurrence=1 ${SOURCE}; rm *.deb`,
    )
    shell(`gcc -O2 -o ${program} ${SOURCE}`)
    return undefined
  } catch (error) {
    return `mptcp_connect cannot be built: ${(error as Error).message.split('\n')[0]}`
  }
}
const skip = build()

before(async () => {
  if (skip !== undefined) return
  for (const file of Object.values(files)) writeFileSync(file, randomBytes(BYTES))
  bed = new Bed()
  await bed.daemon('m')
})

after(async () => {
  await bed?.close()
  rmSync(folder, { recursive: true, force: true })
})

/** Starts one end; the answer is what it read, once it has ended. */
function start(host: Name, end: 'client' | 'server', args: readonly string[]): Promise<Buffer> {
  const out = join(folder, `${end}.out`)
  const command = [program, '-t', '30000', '-p', PORT, ...args].join(' ')
  const child = bed.spawn(host, 'sh', '-c', `exec ${command} < ${files[end]} > ${out}`)
  let errors = ''
  child.stderr!.on('data', (bytes) => {
    errors += bytes
  })
  return once(child, 'close').then(([status]) => {
    assert.equal(status, 0, `${end}: ${errors}`)
    return readFileSync(out)
  })
}

async function pair(server: string, client: string, mode: string, family: 4 | 6): Promise<void> {
  const six = family === 6 ? ['-6'] : []
  const [any, address] = family === 4 ? ['0.0.0.0', '10.3.0.2'] : ['::', 'fd00:3::2']
  const far = start('c', 'server', ['-l', ...six, '-m', mode, '-s', server, any!])
  await until('the server listens', () => bed.run('c', 'ss', '-tlnH', 'sport', '=', `:${PORT}`) !== '')
  const near = start('m', 'client', [...six, '-m', mode, '-s', client, address!])
  const [atServer, atClient] = await Promise.all([far, near])
  assert.ok(atServer.equals(readFileSync(files.client)), 'what the client wrote')
  assert.ok(atClient.equals(readFileSync(files.server)), 'what the server wrote')
}

for (const both of [false, true])
  for (const server of ['TCP', 'MPTCP'])
    for (const client of ['TCP', 'MPTCP'])
      for (const mode of ['poll', 'mmap', 'sendfile'])
        test(`mptcp_connect, ${client} to ${server}, ${mode}, IPv4 and IPv6, ${both ? 'a proxy at both ends' : 'a proxy at the client'}`, {
          skip,
        }, async () => {
          if (both && server + client + mode === 'TCPTCPpoll') await bed.daemon('c')
          for (const family of [4, 6] as const) await pair(server, client, mode, family)
        })

test('the kernel found no fault in what it got', { skip }, () => {
  bed.noFaults()
})
