import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.HttpResponse;

/** Java's own HTTP client as it comes: with its first request it asks for HTTP/2 by an upgrade. */
public class DefaultClient {
  public static void main(String[] arguments) throws Exception {
    HttpClient client = HttpClient.newHttpClient();
    String query = "{\"query\": \"{ wallet(ownerId: \\\"demo-alice\\\") { ownerId } }\"}";
    for (int count = 0; count < 3; count++) {
      HttpRequest request =
          HttpRequest.newBuilder(URI.create(arguments[0]))
              .header("Content-Type", "application/json")
              .POST(BodyPublishers.ofString(query))
              .build();
      HttpResponse<String> response = client.send(request, BodyHandlers.ofString());
      String expected = "{\"data\":{\"wallet\":{\"ownerId\":\"demo-alice\"}}}";
      if (response.statusCode() != 200 || !response.body().equals(expected)) {
        throw new AssertionError(response.statusCode() + " " + response.body());
      }
    }
    System.out.println("3 requests of Java " + Runtime.version() + " were answered as sent");
  }
}
