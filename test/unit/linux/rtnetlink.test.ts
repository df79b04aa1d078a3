import { FakeNetwork, FakeRtnl } from '../../../src/linux/rtnetlink/index.ts'
import { rtnlCompliance } from '../../suites/rtnl.ts'

rtnlCompliance('the fake', () => {
  const network = new FakeNetwork()
  const first = new FakeRtnl(network, 'first')
  const second = new FakeRtnl(network, 'second')
  return { first, second, secondName: 'second', end: () => {} }
})
