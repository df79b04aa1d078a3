/**
 * The engine worker of anchoring: one thread with TUN, sockets, datapath, tunnel machine and the mechanism's own machine.
 * Commands come by the parent's port (protocol.ts), events go back through it. `workerData` is a HostSetup or AnchorSetup.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { GodwitError } from '../core/errors.ts'
import { AnchorNode } from './nodes/anchor.ts'
import { HostNode } from './nodes/host.ts'
import type { AnchorSetup, Event, HostSetup } from './protocol.ts'

const setup = workerData as HostSetup | AnchorSetup
const port = parentPort!
const tell = (event: Event) => port.postMessage(event)

try {
  const node = setup.role === 'host' ? new HostNode(setup, port, tell) : new AnchorNode(setup, port, tell)
  tell({ type: 'ready', wakeFd: node.wakeFd })
  node.run()
} catch (error) {
  const { code, hint } = error instanceof GodwitError ? error : { code: 'FAULT', hint: undefined }
  const message =
    error instanceof Error ? (code === 'FAULT' ? (error.stack ?? error.message) : error.message) : ''
  tell({ type: 'fatal', code, message, ...(hint !== undefined && { hint }) })
}
