/** Entry of a router's engine worker; its data is a RouterSetup (protocol.ts). */
import { serveEngine } from '../tunnel/worker.ts'
import { RouterNode } from './node.ts'

serveEngine((host) => new RouterNode(host))
