/** Entry of the relay's worker; its data is a RelaySetup (protocol.ts). */
import { serveEngine } from '../../tunnel/engine/thread.ts'
import { RelayLoop } from './relay-loop.ts'

serveEngine((host) => new RelayLoop(host))
