/** A network that blocks UDP, and what stands on the way of a WebSocket there: a web server before the anchor, a proxy before the host. */
import assert from 'node:assert/strict'
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Lab } from '../../../lab/build.ts'
import type { Program } from '../../../lab/hosts.ts'
import { topologyNamed } from '../../../lab/topologies/index.ts'
import { addressOf } from '../../../lab/topology.ts'
import type { PeerStatus } from '../../../src/core/mechanism.ts'
import { usePrivateNames } from '../../../src/linux/netns.ts'
import { needProgram, usesPrograms } from '../../../src/linux/packages.ts'
import { daemonStatus } from '../../support/daemon.ts'

usesPrograms('curl', 'ip', 'nft', 'nginx', 'openssl', 'ping', 'tinyproxy')

usePrivateNames()

const GODWIT = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url))
const SERVER = `require('http').createServer((q,r)=>r.end(Buffer.alloc(2e6,7))).listen(8080,()=>console.log('up'))`
const GATEWAY = '192.168.1.1'

let lab: Lab
let folder: string
let server: string
let anchor: string
let host: Program

const path = (...parts: string[]) => join(folder, ...parts)
const run = (role: string, program: string, ...args: string[]) => lab.programs.run(role, program, args)
const godwit = (role: string, ...args: string[]) =>
  run(role, process.execPath, GODWIT, ...args, '--state', path(role))

async function daemon(role: string, ...args: string[]): Promise<Program> {
  // Who has the web server's certificate signed by an authority needs no more than that.
  const words = [`NODE_EXTRA_CA_CERTS=${path('web.crt')}`, process.execPath, GODWIT, ...args]
  const program = await lab.programs.start(role, 'env', [...words, '--state', path(role)], {
    log: path(`${role}.log`),
  })
  await program.expect((line) => line.trim() === 'ready', 25_000)
  return program
}

/** How the working path goes: its carrier and where. */
async function way(): Promise<string> {
  const { peers } = await daemonStatus<{ peers: PeerStatus[] }>(path('mh'))
  const up = peers.flatMap(({ paths }) => paths.filter(({ state }) => state === 'up'))
  return up.map(({ carrier = 'UDP', remote }) => `${carrier} ${remote}`).join()
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  for (let i = 0; i < 250; i++) {
    if (await holds()) return
    await delay(100)
  }
  assert.fail(`not within 25 s: ${what}; it is ${await way()}; ${host.errors}`)
}

/** What the first network does not forward. */
async function block(...what: string[]): Promise<void> {
  await run('nat1', 'nft', 'flush chain inet block forward')
  for (const match of what) await run('nat1', 'nft', `add rule inet block forward ${match} drop`)
}

/** 2 MB through the tunnel. */
async function fetches(): Promise<void> {
  const words = ['-s', '-m', '20', '-o', '/dev/null', '-w', '%{size_download} %{local_ip}']
  assert.equal(await run('mh', 'curl', ...words, `http://${server}:8080/`), '2000000 198.19.0.1')
}

before(async () => {
  folder = mkdtempSync(join(tmpdir(), 'godwit-websockets-'))
  lab = await Lab.build(topologyNamed('upmt'))
  server = addressOf(lab.spec, 'ch1', 'wan')
  anchor = addressOf(lab.spec, 'an', 'wan')
  lab.setLink('acc2', { state: 'down' })
  for (const role of ['an', 'mh', 'nat1']) await run(role, 'ip', 'link', 'set', 'lo', 'up')
  const table = 'add table inet block; add chain inet block forward { type filter hook forward priority 0; }'
  await run('nat1', 'nft', table)
  const web = await lab.programs.start('ch1', process.execPath, ['-e', SERVER])
  await web.expect((line) => line === 'up', 5000)

  const key = ['-newkey', 'rsa:2048', '-nodes', '-keyout', path('web.key'), '-out', path('web.crt')]
  const named = ['-subj', '/CN=anchor', '-addext', `subjectAltName=IP:${anchor}`]
  await run('an', 'openssl', 'req', '-x509', '-days', '1', ...key, ...named)
  writeFileSync(
    path('nginx.conf'),
    `daemon off; master_process on; pid ${path('nginx.pid')}; error_log ${path('nginx.log')};
events {}
http {
  access_log off;
  client_body_temp_path ${path('body')}; proxy_temp_path ${path('proxied')};
  fastcgi_temp_path ${path('fastcgi')}; uwsgi_temp_path ${path('uwsgi')}; scgi_temp_path ${path('scgi')};
  server {
    listen 443 ssl;
    ssl_certificate ${path('web.crt')};
    ssl_certificate_key ${path('web.key')};
    location /godwit {
      proxy_pass http://127.0.0.1:9443;
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
      proxy_set_header X-Forwarded-For $remote_addr;
    }
    location / { return 200 "a web server"; }
  }
}
`,
  )
  writeFileSync(
    path('tinyproxy.conf'),
    `Port 8888\nListen ${GATEWAY}\nBasicAuth laptop secret\nConnectPort 443\nLogFile "${path('tinyproxy.log')}"\nTimeout 600\n`,
  )
  await godwit('an', 'anchor', 'init', '--endpoint', `${anchor}:51820`)
  appendFileSync(
    path('an', 'godwit.toml'),
    `\n[anchor.websocket]\nurl = "wss://${anchor}/godwit"\nlisten = "127.0.0.1:9443"\nplain = true\n`,
  )
  await daemon('an', 'anchor', 'up')
  await lab.programs.start('an', needProgram('nginx'), ['-c', path('nginx.conf'), '-e', path('nginx.log')])
  await lab.programs.start('nat1', needProgram('tinyproxy'), ['-d', '-c', path('tinyproxy.conf')])
  await godwit('mh', 'join', (await godwit('an', 'anchor', 'invite', 'laptop')).trim())
})

after(async () => {
  await lab.close()
  rmSync(folder, { recursive: true })
})

test('issue 10, A10: the anchor is behind nginx on a path of its own, and its reload ends nothing', async () => {
  await block('meta l4proto udp')
  host = await daemon('mh', 'up')
  assert.equal(await way(), `websocket wss://${anchor}/godwit`)
  assert.equal(await run('mh', 'curl', '-sk', `https://${anchor}/`), 'a web server')
  await fetches()
  const pings = lab.programs.run('mh', 'ping', ['-i', '0.05', '-c', '60', '-q', server])
  await run('an', needProgram('nginx'), '-c', path('nginx.conf'), '-e', path('nginx.log'), '-s', 'reload')
  assert.match(await pings, /60 packets transmitted, 60 received/)
  await host.stop()
})

test('issue 10, A10: the network has a proxy with a password and forwards nothing else; then UDP is back, without loss', async () => {
  await block('meta l4proto { tcp, udp }')
  appendFileSync(path('mh', 'godwit.toml'), `\n[host]\nproxy = "http://laptop:secret@${GATEWAY}:8888"\n`)
  host = await daemon('mh', 'up')
  assert.equal(await way(), `websocket wss://${anchor}/godwit`)
  await fetches()
  const pings = lab.programs.run('mh', 'ping', ['-i', '0.05', '-c', '140', '-q', server])
  await block()
  await until('UDP', async () => (await way()) === `UDP ${anchor}:51820`)
  assert.match(await pings, /140 packets transmitted, 140 received/)
  await fetches()
})
