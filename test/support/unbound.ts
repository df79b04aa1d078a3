/** A resolver that answers for one zone by its file and follows its delegations; it needs nothing of the machine. */
export function unboundConfiguration(parts: {
  readonly folder: string
  readonly address: string
  readonly zone: string
  readonly zoneFile: string
}): string {
  const { folder, address, zone, zoneFile } = parts
  return `server:
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "${folder}"
  pidfile: ""
  use-syslog: no
  interface: ${address}
  access-control: 192.0.2.0/24 allow
  module-config: "iterator"
  do-ip6: no
  qname-minimisation: yes
  local-zone: "${zone}" nodefault
remote-control:
  control-enable: no
auth-zone:
  name: "${zone}"
  zonefile: "${zoneFile}"
  for-upstream: yes
  for-downstream: no
  fallback-enabled: no
`
}
