/** sock_diag, control groups, eBPF marks and process look-up on real sockets on loopback. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmdirSync,
  rmSync,
} from 'node:fs'
import { type AddressInfo, connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { after, test } from 'node:test'
import { cgroupMount, KernelCgroups } from '../../../src/linux/cgroup.ts'
import { bpfObstacle, cgroupPrograms } from '../../../src/linux/cgroup-mark.ts'
import { OpenProcess, processInfo, SocketOwners, userId, userName } from '../../../src/linux/proc.ts'
import { SockDiag, TCP, UDP } from '../../../src/linux/sockdiag.ts'

const LOOPBACK = Uint8Array.of(127, 0, 0, 1)
const mount = cgroupMount()
const diag = new SockDiag()
after(() => diag.close())

async function connected(host: string, listen: string) {
  const server = createServer((socket) => socket.on('error', () => {}))
  server.listen(0, listen)
  await once(server, 'listening')
  const client = connect((server.address() as AddressInfo).port, host)
  client.on('error', () => {})
  await once(client, 'connect')
  const flow = {
    protocol: TCP,
    localAddress: LOOPBACK,
    localPort: client.localPort!,
    remoteAddress: LOOPBACK,
    remotePort: client.remotePort!,
  } as const
  const end = () => {
    client.destroy()
    server.close()
  }
  return { client, server, flow, end }
}

test('UP-2: the socket of a TCP flow is found with its user, cgroup and inode, and its process by the inode', async () => {
  const { flow, end } = await connected('127.0.0.1', '127.0.0.1')
  const found = diag.find(flow)
  assert.equal(found?.state, 'established')
  assert.equal(found?.uid, process.getuid?.())
  assert.equal(found?.remotePort, flow.remotePort)
  assert.deepEqual(found?.remoteAddress, LOOPBACK)
  const owners = new SocketOwners()
  assert.equal(owners.find(found?.inode ?? 0, found?.uid), process.pid)
  assert.equal(owners.find(found?.inode ?? 0), process.pid)
  assert.equal(processInfo(process.pid)?.executable, process.execPath)
  assert.equal(owners.find(0xfffffff), undefined)
  assert.equal(diag.find({ ...flow, localPort: 1 }), undefined)
  assert.equal(
    diag.find({ ...flow, localPort: flow.remotePort, remotePort: 1 }),
    undefined,
    'not the listener',
  )
  end()
})

test('an IPv6 socket that carries IPv4 is found by its IPv4 flow', async () => {
  const { flow, server, end } = await connected('127.0.0.1', '::')
  const accepted = diag.find({ ...flow, localPort: flow.remotePort, remotePort: flow.localPort })
  assert.equal(accepted?.family, 6)
  assert.deepEqual(accepted?.remoteAddress, LOOPBACK)
  assert.ok(server.listening)
  end()
})

test('UDP sockets are found connected or not', async () => {
  for (const [family, bind, address] of [
    ['udp4', '0.0.0.0', LOOPBACK],
    ['udp6', '::', LOOPBACK],
    ['udp6', '::1', Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1)],
  ] as const) {
    const socket = createSocket(family)
    socket.bind(0, bind)
    await once(socket, 'listening')
    const localPort = socket.address().port
    const flow = {
      protocol: UDP,
      localAddress: address,
      localPort,
      remoteAddress: address,
      remotePort: 9,
    } as const
    const found = diag.find(flow)
    assert.equal(found?.localPort, localPort, `${family} on ${bind}`)
    assert.equal(found?.state, 'close')
    assert.equal(new SocketOwners().find(found?.inode ?? 0), process.pid)
    socket.close()
  }
  const socket = createSocket('udp4')
  socket.connect(9, '127.0.0.1')
  await once(socket, 'connect')
  const localPort = socket.address().port
  const flow = {
    protocol: UDP,
    localAddress: LOOPBACK,
    localPort,
    remoteAddress: LOOPBACK,
    remotePort: 9,
  } as const
  assert.equal(diag.find(flow)?.state, 'established')
  assert.equal(diag.find({ ...flow, remotePort: 10 }), undefined)
  socket.close()
})

test('a dump shows connections and listeners as asked, and a connection can be aborted', async () => {
  const { client, flow, end } = await connected('127.0.0.1', '127.0.0.1')
  const mine = diag.sockets({ protocols: [TCP] }).filter((each) => each.localPort === flow.localPort)
  assert.equal(mine.length, 1)
  const listeners = diag.sockets({ protocols: [TCP], families: [4], states: ['listen'] })
  assert.ok(listeners.some((each) => each.localPort === flow.remotePort))
  assert.ok(listeners.every((each) => each.state === 'listen'))
  const closed = new Promise((resolve) => client.on('close', resolve))
  if (diag.destroy(mine[0]!)) {
    await closed
    assert.equal(diag.destroy(mine[0]!), false)
  }
  end()
})

test('what a TCP connection has sent and received is counted by the kernel, at both ends (issue 14, point 9)', async () => {
  const { client, server, flow, end } = await connected('127.0.0.1', '127.0.0.1')
  const at = (port: number) => {
    const found: (readonly [number, number])[] = []
    diag.eachTraffic(({ localPort, remotePort, sent, received }) => {
      if (localPort === port && [flow.localPort, flow.remotePort].includes(remotePort))
        found.push([sent, received])
    })
    return found
  }
  client.write(Buffer.alloc(5000))
  const received = () => at(flow.remotePort)[0]?.[1] === 5000
  while (!received()) await new Promise((done) => setTimeout(done, 5))
  assert.equal(at(flow.remotePort).length, 1)
  // tcp_info counts the SYN too on some kernels.
  const [[sent, back]] = at(flow.localPort) as [readonly [number, number]]
  assert.ok((sent === 5000 || sent === 5001) && back === 0, `${sent} ${back}`)
  server.close()
  end()
})

test('UP-42: sockets made in a control group carry its mark and its id', async (t) => {
  if (mount === undefined) return t.skip('cgroup version 2 is not mounted')
  const obstacle = bpfObstacle()
  if (obstacle !== undefined) return t.skip(`eBPF: ${obstacle}`)
  const groups = new KernelCgroups(mount, `test-${process.pid}`)
  const before = OpenProcess.open(process.pid)!.cgroup()!
  const { directory, id } = groups.createIn(before, 'run-1-1')
  t.after(() => groups.remove(directory))
  groups.setMark(directory, 0x11)
  groups.setMark(directory, 0xfedc1234)
  assert.equal(cgroupPrograms(directory), 1)

  const child = spawn('sleep', ['30'])
  t.after(() => child.kill())
  groups.add(directory, process.pid)
  const { flow, end } = await connected('127.0.0.1', '127.0.0.1')
  const path = groups.pathOf(id)!
  assert.equal(groups.setMarkAt(path, 0xfedc1234), true, 'by its path, as selectors name it')
  assert.equal(groups.setMarkAt(`${path}/none`, 1), false)
  groups.setMark(directory, 0)
  const second = await connected('127.0.0.1', '127.0.0.1')
  const [marked, plain] = [diag.find(flow), diag.find(second.flow)]
  end()
  second.end()
  assert.deepEqual([marked?.mark, marked?.cgroupId], [0xfedc1234, id])
  assert.deepEqual([plain?.mark ?? 0, plain?.cgroupId], [0, id])
  groups.add(directory, child.pid!)
  assert.deepEqual(groups.processes(directory).sort(), [process.pid, child.pid].sort())
  assert.equal(groups.remove(directory), true)
  assert.equal(groups.remove(directory), false)
  for (const pid of [process.pid, child.pid!])
    assert.equal(OpenProcess.open(pid)!.cgroup(), before, 'back in the group that it came from')
})

test('groups of an instance are below those of their programs, never inside one another, and found wherever they are', (t) => {
  if (mount === undefined) return t.skip('cgroup version 2 is not mounted')
  const groups = new KernelCgroups(mount, `suite-${process.pid}`)
  const other = new KernelCgroups(mount, `suite-${process.pid}-more`)
  const session = `/session-${process.pid}`
  mkdirSync(join(mount, session))
  t.after(() => {
    for (const each of [...groups.list(), ...other.list()]) groups.remove(each)
    rmdirSync(join(mount, session))
  })
  const first = groups.createIn(session, 'run-1-1')
  assert.equal(first.directory, join(mount, session, `godwit-suite-${process.pid}-run-1-1`))
  const second = other.createIn(first.directory.slice(mount.length), 'run-1-1')
  assert.equal(dirname(second.directory), join(mount, session))
  assert.notEqual(first.id, second.id)
  assert.deepEqual([groups.list(), other.list()], [[first.directory], [second.directory]])
  assert.equal(groups.pathOf(first.id), first.directory.slice(mount.length + 1))
  assert.equal(groups.id(first.directory), first.id)
  assert.throws(() => groups.createIn(session, 'run-1-1'), { code: 'EEXIST' })
  assert.throws(() => groups.createIn('/../elsewhere', 'run-1-2'), /outside/)
  assert.throws(() => groups.createIn(session, '../x'), { kind: 'usage' })
  assert.equal(groups.remove(first.directory), true)
  assert.equal(groups.id(first.directory), undefined)
  assert.equal(groups.pathOf(first.id), undefined)
})

test('a process that has ended is not mistaken for the next one with its number', () => {
  const module = JSON.stringify(new URL('../../../src/linux/proc.js', import.meta.url).href)
  const program = `
    const { OpenProcess } = await import(${module})
    const { spawn, spawnSync } = await import('node:child_process')
    const { writeFileSync } = await import('node:fs')
    const first = spawn('setpriv', ['--reuid', '65534', '--clear-groups', 'sleep', '60'])
    await new Promise((done) => first.once('spawn', done))
    const handle = OpenProcess.open(first.pid)
    while (handle.soleUser() !== 65534) await new Promise(setImmediate)
    const before = [handle.soleUser(), handle.parent() === process.pid, handle.exists()]
    first.kill('SIGKILL')
    await new Promise((done) => first.once('exit', done))
    let second
    for (let i = 0; i < 200 && second?.pid !== first.pid; i++) {
      second?.kill('SIGKILL')
      writeFileSync('/proc/sys/kernel/ns_last_pid', String(first.pid - 1))
      second = spawn('sleep', ['60'])
    }
    const after = [handle.soleUser() ?? null, handle.cgroup() ?? null, handle.exists()]
    const next = OpenProcess.open(second.pid)
    console.log(JSON.stringify({ same: second.pid === first.pid, before, after, next: next.soleUser() }))
    second.kill('SIGKILL')`
  const { stdout, stderr, status } = spawnSync(
    'unshare',
    ['--pid', '--fork', '--mount-proc', process.execPath, '--input-type=module', '-e', program],
    { encoding: 'utf8' },
  )
  assert.equal(status, 0, stderr)
  assert.deepEqual(JSON.parse(stdout), {
    same: true,
    before: [65534, true, true],
    after: [null, null, false],
    next: 0,
  })
})

test('a process that has rights besides those of its user has no sole user', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'godwit-rights-'))
  t.after(() => rmSync(folder, { recursive: true }))
  chmodSync(folder, 0o755)
  const sleep = join(folder, 'sleep')
  copyFileSync(realpathSync('/bin/sleep'), sleep)
  chmodSync(sleep, 0o4755)
  const as = (...command: string[]) => {
    const child = spawn('setpriv', ['--reuid', '65534', '--clear-groups', ...command])
    t.after(() => child.kill('SIGKILL'))
    for (;;) {
      const handle = OpenProcess.open(child.pid!)!
      if (readlinkSync(`/proc/${child.pid}/exe`).endsWith('sleep')) return handle
      handle.close()
    }
  }
  assert.equal(as('sleep', '60').soleUser(), 65534)
  assert.equal(as(sleep, '60').soleUser(), undefined, 'started by the user, with the rights of root')
})

test('the rights of the service units are enough to mark sockets, and to end it', (t) => {
  if (mount === undefined) return t.skip('cgroup version 2 is not mounted')
  const obstacle = bpfObstacle()
  if (obstacle !== undefined) return t.skip(`eBPF: ${obstacle}`)
  const groups = new KernelCgroups(mount, `rights-${process.pid}`)
  const { directory } = groups.createIn('/', 'run-1-1')
  t.after(() => groups.remove(directory))
  const module = JSON.stringify(new URL('../../../src/linux/cgroup-mark.js', import.meta.url).href)
  const program = `
    const { setCgroupMark } = await import(${module})
    for (const mark of [1, 2, 0]) setCgroupMark(process.argv[1], mark)`
  for (const name of ['godwit.service', 'godwit@dime.service']) {
    const unit = readFileSync(new URL(`../../../../examples/systemd/${name}`, import.meta.url), 'utf8')
    const rights = /^CapabilityBoundingSet=(.*)$/m.exec(unit)![1]!.toLowerCase().replaceAll('cap_', '+')
    const args = [`--bounding-set=-all,${rights.replaceAll(' ', ',')}`, process.execPath]
    args.push('--input-type=module', '-e', program, directory)
    const { status, stderr } = spawnSync('setpriv', args, { encoding: 'utf8' })
    assert.equal(status, 0, stderr)
    assert.equal(cgroupPrograms(directory), 0)
  }
})

test('users have names and ids', () => {
  assert.equal(userName(0), 'root')
  assert.equal(userId('root'), 0)
  assert.equal(userId('1234'), 1234)
  assert.equal(userId('nobody-of-that-name'), undefined)
})
