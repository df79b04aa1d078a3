/** Entry of a node's engine worker; its data is a NodeSetup (protocol.ts). */
import { serveEngine } from '../../tunnel/engine/thread.ts'
import { NodeEngine } from './engine.ts'

serveEngine((host) => new NodeEngine(host).tunnel)
