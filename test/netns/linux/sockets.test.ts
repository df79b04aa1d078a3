/** sock_diag, control groups, eBPF marks and process look-up on real sockets on loopback. */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { type AddressInfo, connect, createServer } from 'node:net'
import { after, test } from 'node:test'
import { bpfObstacle, cgroupPrograms } from '../../../src/linux/bpf.ts'
import { cgroupMount, KernelCgroups } from '../../../src/linux/cgroup.ts'
import { processInfo, SocketOwners, userId, userName } from '../../../src/linux/proc.ts'
import { SockDiag, TCP, UDP } from '../../../src/linux/sockdiag.ts'
import { cgroupsCompliance } from '../../suites/cgroups.ts'

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

test('UP-42: sockets made in a control group carry its mark and its id', async (t) => {
  if (mount === undefined) return t.skip('no control groups of version 2')
  const obstacle = bpfObstacle()
  if (obstacle !== undefined) return t.skip(`eBPF: ${obstacle}`)
  const groups = new KernelCgroups(mount, `test-${process.pid}`)
  t.after(() => {
    groups.remove('app')
    groups.prune()
  })
  const id = groups.create('app')
  groups.setMark('app', 0x11)
  groups.setMark('app', 0xfedc1234)
  assert.equal(cgroupPrograms(groups.directory('app')), 1)

  const child = spawn('sleep', ['30'])
  t.after(() => child.kill())
  groups.add('app', process.pid)
  const { flow, end } = await connected('127.0.0.1', '127.0.0.1')
  const path = groups.pathOf(id)!
  assert.equal(groups.setMarkAt(path, 0xfedc1234), true, 'by its path, as selectors name it')
  assert.equal(groups.setMarkAt(`${path}/none`, 1), false)
  groups.setMark('app', 0)
  const second = await connected('127.0.0.1', '127.0.0.1')
  const [marked, plain] = [diag.find(flow), diag.find(second.flow)]
  end()
  second.end()
  assert.deepEqual([marked?.mark, marked?.cgroupId], [0xfedc1234, id])
  assert.deepEqual([plain?.mark ?? 0, plain?.cgroupId], [0, id])
  groups.add('app', child.pid!)
  assert.equal(groups.remove('app'), true)
  assert.equal(groups.remove('app'), false)
})

test('the rights of the service units are enough to mark sockets, and to end it', (t) => {
  if (mount === undefined) return t.skip('no control groups of version 2')
  const obstacle = bpfObstacle()
  if (obstacle !== undefined) return t.skip(`eBPF: ${obstacle}`)
  const groups = new KernelCgroups(mount, `rights-${process.pid}`)
  t.after(() => {
    groups.remove('app')
    groups.prune()
  })
  groups.create('app')
  const module = JSON.stringify(new URL('../../../src/linux/bpf.js', import.meta.url).href)
  const program = `
    const { setCgroupMark } = await import(${module})
    for (const mark of [1, 2, 0]) setCgroupMark(process.argv[1], mark)`
  for (const name of ['godwit.service', 'godwit@.service']) {
    const unit = readFileSync(new URL(`../../../../examples/systemd/${name}`, import.meta.url), 'utf8')
    const rights = /^CapabilityBoundingSet=(.*)$/m.exec(unit)![1]!.toLowerCase().replaceAll('cap_', '+')
    const args = [`--bounding-set=-all,${rights.replaceAll(' ', ',')}`, process.execPath]
    args.push('--input-type=module', '-e', program, groups.directory('app'))
    const { status, stderr } = spawnSync('setpriv', args, { encoding: 'utf8' })
    assert.equal(status, 0, stderr)
    assert.equal(cgroupPrograms(groups.directory('app')), 0)
  }
})

if (mount !== undefined)
  cgroupsCompliance('the kernel', () => new KernelCgroups(mount, `suite-${process.pid}`))

test('users have names and ids', () => {
  assert.equal(userName(0), 'root')
  assert.equal(userId('root'), 0)
  assert.equal(userId('1234'), 1234)
  assert.equal(userId('nobody-of-that-name'), undefined)
})
