/** What the commands of the MPTCP proxy show. */
export type { ConnectionView } from '../../mptcp/index.ts'
