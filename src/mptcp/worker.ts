/** Entry of the data path's worker; its data is an MptcpSetup (protocol.ts). */
import { performance } from 'node:perf_hooks'
import { nodeRandom } from '../crypto/node-crypto.ts'
import { nodeSha256 } from '../crypto/sha256.ts'
import { Ledger } from '../linux/ledger.ts'
import { KernelError } from '../linux/libc.ts'
import { NfSocket } from '../linux/nf-socket.ts'
import { NfWatch } from '../linux/nf-watch.ts'
import { serveEngine } from '../tunnel/engine/thread.ts'
import { MptcpEngine } from './engine.ts'
import { Filter } from './filter.ts'
import { KeptFile } from './kept.ts'
import { type FastPathOptions, KernelFastPath } from './kernel/fast-path.ts'
import { MptcpMachine } from './machine/machine.ts'
import type { MptcpCommand, MptcpSetup, MptcpWorkerEvent, WorkerAccess } from './protocol.ts'
import { reportOf } from './report.ts'

serveEngine(({ data, poller, post }) => {
  const { ledger: names, kept: keptAt, kernel, init, accesses } = data as MptcpSetup
  const ledger = new Ledger(names)
  const sockets = new NfSocket()
  const filter = new Filter(sockets, ledger)
  const tables = new NfWatch()
  const tell = (event: MptcpWorkerEvent) => post(event)
  const kept = keptFile(keptAt, tell)
  const fast = fastPath(ledger, kernel, init.connections, tell, (tuple, mark) => filter.send(tuple, mark))
  const components = {
    ...(fast !== undefined && { fast }),
    sha: nodeSha256,
    random: nodeRandom,
    ...(kept !== undefined && { keeper: kept.records }),
  }
  const machine = new MptcpMachine(components, init)
  const engine = new MptcpEngine({
    machine,
    poller,
    queues: {
      whole: ledger.mptcp.queue,
      headers: ledger.mptcp.headers,
      bodies: ledger.mptcp.bodies,
    },
    mark: ledger.mptcp.mark,
    now: () => performance.now(),
    tables,
    onRemoved: () => {
      if (filter.restore()) tell({ type: 'restored' })
    },
    watch: (event) => {
      if (event.side === 'local') fast?.watch(event.tuple, event.on)
      filter.watch(event, event.on)
    },
    differs: (tuple) => filter.differs(tuple),
    onEvent: tell,
  })
  const setAccesses = (list: readonly WorkerAccess[]) => {
    engine.setInterfaces(list)
    fast?.setDevices(list.filter(({ ethernet }) => ethernet))
    machine.setAccesses(list, performance.now())
  }
  const onCommand = (message: unknown) => {
    const command = message as MptcpCommand
    const now = performance.now()
    const answer = (request: number, done: boolean) => tell({ type: 'answer', request, done })
    switch (command.type) {
      case 'accesses':
        setAccesses(command.accesses)
        break
      case 'report':
        tell({ type: 'report', request: command.request, report: reportOf(engine) })
        break
      case 'handover':
        answer(command.request, machine.handover(command.connection, command.access, now))
        break
      case 'add':
        answer(command.request, machine.addSubflow(command.connection, command.access, now))
        break
      case 'remove':
        answer(command.request, machine.removeSubflow(command.connection, command.subflow, now))
        break
    }
    engine.flush()
  }
  setAccesses(accesses)
  if (kept !== undefined) machine.restore(kept.kept, performance.now())
  engine.begin((watched) => {
    const obstacle = fast?.attach()
    if (obstacle !== undefined) tell({ type: 'slow', reason: obstacle })
    for (const { side, tuple } of watched) if (side === 'local') fast?.watch(tuple, true)
    filter.install(init.forward, watched)
  })
  return {
    engine: {
      listen: (port, onMessage) => engine.listen(port, onMessage),
      run: () => engine.run(),
      stop: () => {
        machine.resetAll(performance.now())
        engine.flush()
        engine.stop()
      },
      close: () => {
        fast?.close()
        filter.remove()
        kept?.remove()
        sockets.close()
        tables.close()
        engine.close()
      },
    },
    onCommand,
  }
})

/** Undefined where the kernel has none of it. */
function fastPath(
  ledger: Ledger,
  enabled: boolean,
  connections: number,
  tell: (event: MptcpWorkerEvent) => void,
  send: FastPathOptions['send'],
): KernelFastPath | undefined {
  try {
    return new KernelFastPath({ ledger, enabled, connections, now: () => performance.now(), send })
  } catch (error) {
    if (!(error instanceof KernelError)) throw error
    if (enabled) tell({ type: 'slow', reason: error.message })
    return undefined
  }
}

/** Undefined when there is no place for one: connections then end with this process. */
function keptFile(path: string, tell: (event: MptcpWorkerEvent) => void): KeptFile | undefined {
  try {
    return new KeptFile(path, Date.now())
  } catch (error) {
    tell({ type: 'unkept', reason: (error as Error).message })
    return undefined
  }
}
