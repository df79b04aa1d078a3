/**
 * Programs of others on the hooks that the kernel path uses, and on the control group beside it: they are there before the daemon, come and go while it
 * carries a connection, and stay after it. Nobody replaces or harms anybody.
 */
import assert from 'node:assert/strict'
import { closeSync, openSync } from 'node:fs'
import { after, before, test } from 'node:test'
import {
  attachProgram,
  detachProgram,
  loadProgram as load,
  programName,
  type Target,
} from '../../../src/linux/bpf.ts'
import { cgroupMount } from '../../../src/linux/cgroup.ts'
import { Ebpf, FRAME, Helper } from '../../../src/linux/ebpf.ts'
import { closeFd } from '../../../src/linux/libc.ts'
import { inNamespace } from '../../../src/linux/netns.ts'
import { SharedArray } from '../../../src/linux/shared-array.ts'
import {
  attachSockOps,
  detachSockOps,
  loadSockOps,
  namespaceCookie,
  sockOpsPrograms,
} from '../../../src/linux/sock-ops.ts'
import { attachTcx, detachTcx, loadProgram, Tcx, TcxAction, tcxPrograms } from '../../../src/linux/tcx.ts'
import { fastPathObstacle } from '../../../src/mptcp/kernel/fast-path.ts'
import { Bed, until } from './bed.ts'
import { Transfers } from './transfers.ts'

const skip = fastPathObstacle() ?? false
const [EARLY, LATE] = [`early${process.pid}`, `late${process.pid}`]
const ACCESS = 101
const ACCESSES = [101, 102]
/** Of a program on a device that decides for those behind it too. */
const ACCEPT = 0
/** struct bpf_sock_ops: op, bpf_sock_ops_cb_flags; its operations; what asks for changes of state. */
const [OP, FLAGS] = [0, 84]
const [ACTIVE, STATE] = [4, 10]
const STATE_CALLS = 1 << 2
const [PROG_TYPE_CGROUP_SKB, ATTACH_EGRESS, ALLOW_MULTI, ALLOWED] = [8, 1, 2, 1]

let bed: Bed
let transfers: Transfers

before(async () => {
  bed = new Bed()
  transfers = new Transfers(bed, 'm')
  await bed.serve()
})

after(async () => {
  for (const name of [EARLY, LATE]) detachSockOps(cgroupMount()!, name)
  await bed.close()
})

/** What somebody else has on all hooks; each program counts its runs. */
class Neighbour {
  readonly #name: string
  readonly #counts = SharedArray.create('neighbour', 8, 5)
  readonly #programs: number[]
  readonly #directory = openSync(cgroupMount()!, 'r')

  constructor(name: string) {
    this.#name = name
    const cookie = inNamespace(bed.netns('m'), namespaceCookie)
    const { fd } = this.#counts
    const sockets = loadSockOps(name, socketProgram(fd, cookie))
    const device = loadProgram(
      name,
      counting(new Ebpf(), fd, 2).set(0, TcxAction.NEXT).exit().finish(),
      Tcx.INGRESS,
    )
    const leaving = loadProgram(name, counting(new Ebpf(), fd, 4).set(0, ACCEPT).exit().finish(), Tcx.EGRESS)
    const egress = counting(new Ebpf(), fd, 3).set(0, ALLOWED).exit().finish()
    const group = load(name, egress, PROG_TYPE_CGROUP_SKB, ATTACH_EGRESS)
    this.#programs = [sockets, device, group, leaving]
    attachSockOps(cgroupMount()!, sockets)
    inNamespace(bed.netns('m'), () => {
      attachTcx(ACCESS, Tcx.INGRESS, device)
      for (const access of ACCESSES) attachTcx(access, Tcx.EGRESS, leaving)
    })
    attachProgram(this.#group, group, ALLOW_MULTI)
  }

  get #group(): Target {
    return { target: this.#directory, attachType: ATTACH_EGRESS, name: 'the control group' }
  }

  /** Sockets of m that were opened, changes of their state, packets of its first access, of the control group, packets that leave by its accesses. */
  get counts(): number[] {
    return [0, 1, 2, 3, 4].map((i) => Number(this.#counts.view.getBigUint64(8 * i, true)))
  }

  /** It is on every hook. */
  get stands(): boolean {
    const devices = inNamespace(bed.netns('m'), () =>
      tcxPrograms(ACCESS, Tcx.INGRESS).map((id) => programName(id)),
    )
    return sockOpsPrograms(cgroupMount()!).includes(this.#name) && devices.includes(this.#name)
  }

  leave(): void {
    detachSockOps(cgroupMount()!, this.#name)
    inNamespace(bed.netns('m'), () => {
      detachTcx(ACCESS, Tcx.INGRESS, this.#name)
      for (const access of ACCESSES) detachTcx(access, Tcx.EGRESS, this.#name)
    })
    detachProgram(this.#group, this.#programs[2]!)
    for (const program of this.#programs) closeFd(program)
    closeSync(this.#directory)
    this.#counts.close()
  }
}

function counting(code: Ebpf, map: number, element: number): Ebpf {
  code.storeValue(4, FRAME, -4, element)
  code.map(1, map).address(2, FRAME, -4).call(Helper.map_lookup_elem)
  code.jumpIf('eq', 0, 0, `none ${element}`).set(1, 1).addAtomically(0, 0, 1)
  return code.label(`none ${element}`)
}

/** Asks for changes of state, beside whatever others asked for. */
function socketProgram(map: number, cookie: bigint): Uint8Array {
  const code = new Ebpf().move(6, 1)
  code.call(Helper.get_netns_cookie).setWide(1, cookie).jumpIfRegister('ne', 0, 1, 'out')
  code.load(4, 7, 6, OP).jumpIf('eq', 7, STATE, 'state').jumpIf('ne', 7, ACTIVE, 'out')
  code.move(1, 6).load(4, 2, 6, FLAGS).alu('or', 2, STATE_CALLS).call(Helper.sock_ops_cb_flags_set)
  counting(code, map, 0).jump('out').label('state')
  return counting(code, map, 1).label('out').set(0, ALLOWED).exit().finish()
}

test('issue 12, part 3: programs of others on the same hooks and ours work beside each other, whoever came first and whoever leaves', {
  skip,
}, async () => {
  const early = new Neighbour(EARLY)
  const rises = async (each: Neighbour, what: string) => {
    const [, , packets, group] = each.counts
    await until(`${what}: its programs run`, () => each.counts[2]! > packets! && each.counts[3]! > group!)
    assert.ok(each.stands, what)
  }
  let late: Neighbour | undefined
  try {
    await bed.daemon('m')
    const endless = transfers.endless('paced')
    const { id } = await bed.underWay(1_000_000)
    const inKernel = (what: string) =>
      until(what, async () => (await bed.connections()).find((each) => each.id === id)?.path === 'kernel')
    await inKernel('the kernel has it')
    await rises(early, 'beside the daemon')
    late = new Neighbour(LATE)
    await rises(late, 'it came while the kernel had a connection')
    await transfers.carriesMore(id, 'acc1', 'the same access', true)
    await bed.end('m', 'SIGKILL')
    await rises(late, 'the daemon was killed')
    await bed.daemon('m')
    for (const each of [early, late]) await rises(each, 'the next daemon runs')
    late.leave()
    late = undefined
    await transfers.carriesMore(id, 'acc1', 'the same access, without the other programs,', true)
    await inKernel('the kernel has it again')
    await bed.post('/v1/mptcp/handover', { connection: id, access: 'acc2' })
    await inKernel('the kernel has it over the other access')
    await transfers.carriesMore(id, 'acc2', 'the other access, behind which a program accepts all,', true)
    await endless.finish()
    await until('the connection is closed', async () => (await bed.connections()).length === 0)
    const [opened, states, , , left] = early.counts
    assert.ok(opened! >= 1 && states! >= 2, `${opened} opened, ${states} changes of state`)
    assert.ok(left! > 100, `${left} packets left`)
    await bed.end('m')
    assert.ok(early.stands, 'the daemon has ended')
    bed.noFaults()
  } finally {
    late?.leave()
    early.leave()
  }
  assert.equal(early.stands, false)
})
