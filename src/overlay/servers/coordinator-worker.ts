/** Entry of the coordinator's worker; its data is a CoordinatorSetup (protocol.ts). */
import { serveEngine } from '../../tunnel/engine/thread.ts'
import { CoordinatorLoop } from './coordinator-loop.ts'

serveEngine((host) => new CoordinatorLoop(host))
