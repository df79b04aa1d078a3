/** Output of the commands of the MPTCP proxy. */
export type { ConnectionView } from '../../mptcp/index.ts'
