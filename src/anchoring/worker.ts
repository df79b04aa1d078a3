/** Entry of the engine worker of anchoring; its data is a HostSetup or an AnchorSetup (protocol.ts). */
import { serveEngine } from '../tunnel/engine/thread.ts'
import { AnchorEngine } from './engines/anchor.ts'
import { HostEngine } from './engines/host.ts'
import type { AnchorSetup, HostSetup } from './protocol.ts'

serveEngine((host) => {
  const { role } = host.data as HostSetup | AnchorSetup
  return (role === 'host' ? new HostEngine(host) : new AnchorEngine(host)).tunnel
})
