/** Entry of a router's engine worker; its data is a RouterSetup (protocol.ts). */
import { serveEngine } from '../tunnel/engine/thread.ts'
import { RouterEngine } from './engine.ts'

serveEngine((host) => new RouterEngine(host).tunnel)
