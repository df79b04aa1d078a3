/** Entry of the engine worker of anchoring; its data is a HostSetup or an AnchorSetup (protocol.ts). */
import { serveEngine } from '../tunnel/worker.ts'
import { AnchorNode } from './nodes/anchor.ts'
import { HostNode } from './nodes/host.ts'
import type { AnchorSetup, HostSetup } from './protocol.ts'

serveEngine((host) =>
  (host.data as HostSetup | AnchorSetup).role === 'host' ? new HostNode(host) : new AnchorNode(host),
)
