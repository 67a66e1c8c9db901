// What a Relay application declares; relay-compiler reads the tagged texts and writes an artifact for each.
import { graphql } from "relay-runtime";

graphql`
  query PlayerQuery($ownerId: String!) {
    balance(ownerId: $ownerId) {
      id
      amount
    }
    wallet(ownerId: $ownerId) {
      id
      balance {
        amount
      }
      ...Player_wallet @arguments(count: 2)
    }
  }
`;

graphql`
  fragment Player_wallet on Wallet
  @argumentDefinitions(count: { type: "Int", defaultValue: 10 }, cursor: { type: "String" })
  @refetchable(queryName: "PlayerHistoryQuery") {
    transactions(first: $count, after: $cursor) @connection(key: "Player_transactions") {
      edges {
        node {
          type
          balanceAfter
          executedAt
        }
      }
      pageInfo {
        endCursor
        hasNextPage
      }
    }
  }
`;

graphql`
  query PlayerNodesQuery($id: ID!, $ids: [ID!]!) {
    node(id: $id) {
      __typename
      ... on Balance {
        amount
      }
    }
    nodes(ids: $ids) {
      __typename
      id
    }
  }
`;

graphql`
  mutation PlayerTopUpMutation($input: TopUpInput!) {
    topUp(input: $input) {
      __typename
      ... on TopUpPayload {
        balance {
          amount
        }
      }
      ... on Error {
        code
        message
      }
    }
  }
`;

graphql`
  mutation PlayerOpenWalletMutation($input: OpenWalletInput!) {
    openWallet(input: $input) {
      ... on OpenWalletPayload {
        alreadyOpen
      }
    }
  }
`;
